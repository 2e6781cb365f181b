"""Train with Accelerate and a learning rate that is 30 times too high.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 examples/accelerate_loop.py

What is hdet's are the lines marked so. The rate that was found is printed at the end.
"""

import argparse
import tempfile

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

import hdet  # hdet


def data(count: int, seed: int) -> TensorDataset:
    """Return inputs and the noisy targets of a fixed function."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=draw)
    y = torch.sin(2 * x[:, :4]).sum(1, keepdim=True) + x[:, 4:].square().mean(1, keepdim=True)
    return TensorDataset(x, y + 0.3 * torch.randn(count, 1, generator=draw))


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """Return the mean squared error."""
    x, y = batch
    return (model(x) - y).square().mean()


def main(steps: int, accumulate: int) -> None:
    """Train for so many optimizer steps, each of `accumulate` micro-batches."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-1)
    count = 16 * steps * accumulate * accelerator.num_processes
    loader = DataLoader(data(count, seed=2), batch_size=16)
    held_out = DataLoader(data(1024, seed=3), batch_size=64)
    scheduler = CosineAnnealingLR(optimizer, steps)
    model, optimizer, loader, held_out = accelerator.prepare(net, optimizer, loader, held_out)
    probe = hdet.probe(net, DataLoader(data(6400, seed=1), batch_size=64), loss_of)  # hdet
    scheduler = accelerator.prepare(  # hdet
        hdet.Explorer(optimizer, scheduler, probe=probe, model=model, sync_every=5)
    )

    for batch in loader:
        with accelerator.accumulate(model):
            loss = loss_of(model, batch)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step(loss)  # hdet: the loss
            optimizer.zero_grad()

    with scheduler.converged(), torch.no_grad():  # hdet
        with tempfile.TemporaryDirectory() as folder:
            accelerator.save_state(folder)
        losses = torch.stack([loss_of(model, batch) for batch in held_out])
        score = accelerator.reduce(losses.mean(), "mean")
    rate = scheduler.found()[0]
    accelerator.print(f"learning rate found {rate:.1e}, held-out loss {score:.3f}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--accumulate", type=int, default=2)
    given = parser.parse_args()
    main(given.steps, given.accumulate)
