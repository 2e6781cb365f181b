"""HDET in an ordinary DistributedDataParallel script, with checkpoints that resume exactly.

    torchrun --standalone --nproc-per-node 4 examples/ddp.py
    torchrun --standalone --nproc-per-node 4 examples/ddp.py --resume

On GPUs, change `gloo` to `nccl` and move model and batches to this rank's device. Lines that
are new against plain DDP with OneCycleLR are marked with `# hdet`.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import hdet  # hdet

STEPS, SAVE_AT = 300, 150


def batch(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a fresh batch of a small regression problem, other on each rank."""
    generator = torch.Generator().manual_seed(1000 * (step + 1) + rank)
    x = torch.randn(32, 8, generator=generator)
    return x, (x.sin().sum(1, keepdim=True) + 0.1 * torch.randn(32, 1, generator=generator))


def main(folder: Path, resume: bool) -> None:
    """Train, saving half-way; or go on from there."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 1))
    ddp = DistributedDataParallel(model)
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
    if resume:
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
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
        if step + 1 == SAVE_AT:
            scheduler.converge()  # hdet: collective; one copy of the weights for all ranks
            if rank == 0:
                folder.mkdir(parents=True, exist_ok=True)
                state = {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                }
                torch.save(state, folder / "checkpoint.pt")
        if rank == 0 and (step + 1) % 50 == 0:
            metrics = scheduler.metrics()  # hdet
            rates = ", ".join(f"{lr:.2e}" for lr in metrics["replica_lr"][0])
            print(f"step {step + 1}: loss {float(loss.detach()):.4f}, rates {rates}")

    scheduler.converge()  # hdet
    with torch.no_grad():
        x, y = batch(-1, 0)
        held_out = (model(x) - y).square().mean()
    if rank == 0:
        print(f"held-out loss {float(held_out):.6f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/example"))
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    main(options.folder, options.resume)
