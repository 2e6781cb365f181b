"""HDET in an ordinary DistributedDataParallel script that survives the death of a process.

    torchrun --standalone --nproc-per-node 4 --max-restarts 3 examples/ddp.py

Every 50 steps it saves one checkpoint for all ranks, and it goes on from what it finds: after
a crash torchrun starts it again, and it ends as if nothing had happened, to the last bit.
With another number of processes it goes on too. `--fresh` begins anew.

On GPUs, change `gloo` to `nccl` and move model and batches to this rank's device. Lines that
are new against plain DDP with OneCycleLR are marked with `# hdet`.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import hdet  # hdet

STEPS, SAVE_EVERY = 300, 50


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a fresh batch of a small regression problem, other on each rank."""
    generator = torch.Generator().manual_seed(1000 * (step + 1) + rank)
    x = torch.randn(32, 8, generator=generator)
    return x, (x.sin().sum(1, keepdim=True) + 0.1 * torch.randn(32, 1, generator=generator))


def save(file: Path, state: dict) -> None:
    """Write a checkpoint so that there is always a whole one, whenever this is interrupted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".new").open("wb") as new:
        torch.save(state, new)
        new.flush()
        os.fsync(new.fileno())
    os.replace(new.name, file)


def main(file: Path) -> None:
    """Train, from the checkpoint if there is one."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 1))
    ddp = DistributedDataParallel(model)
    # Every replica for itself: one that has broken is left out, and not passed on to all.
    ddp.register_comm_hook(None, hdet.finite_mean_hook)  # hdet
    # DDP orders its buckets anew after the first backward pass, and with that the additions:
    # done before loading, a resumed run is the same to the last bit.
    ddp(batch(0, rank)[0]).sum().backward()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = hdet.OneCycleAutoLR(  # hdet
        optimizer,
        max_lr=1e-2,
        total_steps=STEPS,
        ensemble_lr_spread_ratio=1 / 9,  # hdet
        model_sync_interval=5,  # hdet
        auto_lr_warmup_steps=100,  # hdet
        enable_auto_lr=True,  # hdet
        loss_scale=0.1,  # hdet
        model=model,  # hdet
    )
    first = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])  # each rank takes up its own rate
        first = state["step"]

    for step in range(first, STEPS):
        x, y = batch(step, rank)
        loss = (ddp(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)  # hdet: this rank's own loss, not reduced
        if (step + 1) % SAVE_EVERY == 0:
            with scheduler.converged():  # hdet: all ranks enter; inside, all are the same
                if rank == 0:
                    state = {
                        "step": step + 1,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "scheduler": scheduler.state_dict(),
                    }
                    save(file, state)
        if rank == 0 and (step + 1) % 50 == 0:
            metrics = scheduler.metrics()  # hdet
            rates = ", ".join(f"{lr:.2e}" for lr in metrics["replica_lr"][0])
            print(f"step {step + 1}: loss {float(loss.detach()):.4f}, rates {rates}")

    with scheduler.converged(), torch.no_grad():  # hdet
        x, y = batch(-1, 0)
        held_out = (model(x) - y).square().mean()
    if rank == 0:
        print(f"held-out loss {float(held_out)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--file", type=Path, default=Path("runs/example/checkpoint.pt"))
    parser.add_argument("--fresh", action="store_true", help="remove the checkpoint first")
    options = parser.parse_args()
    if options.fresh and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        options.file.unlink(missing_ok=True)
    main(options.file)
