"""Train with a learning rate that is 30 times too high, and one that is 30 times too low.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 4 examples/explorer.py

Each run prints its rate as it goes, and both end near the same loss.
"""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

import hdet


def data(count: int, seed: int) -> TensorDataset:
    """Return inputs and the noisy targets of a fixed function."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=draw)
    y = torch.sin(2 * x[:, :4]).sum(1, keepdim=True) + x[:, 4:].square().mean(1, keepdim=True)
    return TensorDataset(x, y + 0.3 * torch.randn(count, 1, generator=draw))


def loss_of(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    """Return the mean squared error."""
    x, y = batch
    return (model(x) - y).square().mean()


def train(lr: float, steps: int) -> float:
    """Train one model from an initial rate; return its held-out loss."""
    rank, size = dist.get_rank(), dist.get_world_size()
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        model.append(nn.Linear(64, 1))
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    explorer = hdet.Explorer(
        optimizer,
        CosineAnnealingLR(optimizer, steps),
        sync_every=5,
        probe=hdet.probe(model, DataLoader(data(6400, seed=1), batch_size=64), loss_of),
        model=ddp,
    )
    own = TensorDataset(*data(16 * steps * size, seed=2)[rank::size])
    for step, batch in enumerate(DataLoader(own, batch_size=16), 1):
        loss = loss_of(ddp, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        explorer.step(loss)
        if step % (steps // 6) == 0 and rank == 0:
            seen = explorer.metrics()
            print(f"  step {step}: rate {seen['base_lr'][0]:.2e} ({seen['phase']})")
    explorer.converge()
    with torch.no_grad():
        return float(loss_of(model, list(data(4096, seed=3)[:])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    dist.init_process_group("gloo")
    for lr in (1e-2 / 30, 1e-2 * 30):
        if dist.get_rank() == 0:
            print(f"initial learning rate {lr:.1e}")
        held_out = train(lr, steps)
        if dist.get_rank() == 0:
            print(f"  held-out loss {held_out:.4f}")
    dist.destroy_process_group()
