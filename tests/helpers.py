"""Tiny problems with known answers, shared by the tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hdet.seeding import generator

WIDTH = 6


def small_model(seed: int = 0, norm: bool = False) -> nn.Module:
    """Return a float64 network, the same for the same seed."""
    layers = [nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 1)]
    if norm:
        layers.insert(1, nn.BatchNorm1d(8))
    model = nn.Sequential(*layers).double()
    g = generator(seed, "small model")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g).double() / 3)
    return model


def two_groups(model: nn.Module) -> list[dict]:
    """Return biases and matrices as two parameter groups."""
    vectors = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    return [{"params": matrices}, {"params": vectors}]


def batch(step: int, rank: int, size: int = 4) -> tuple[Tensor, Tensor]:
    """Return a rank's inputs and targets at a step."""
    g = generator(0, "batch", step, rank)
    x = torch.randn(size, WIDTH, generator=g).double()
    return x, x.sin().sum(1, keepdim=True) + 0.1 * torch.randn(size, 1, generator=g)


def loss_at(model: nn.Module, step: int, rank: int) -> Tensor:
    """Return the mean squared error on `batch(step, rank)`."""
    x, y = batch(step, rank)
    return (model(x) - y).square().mean()


def train_ddp(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler,
    rank: int,
    steps: range,
    before_step: Callable[[int], object] | None = None,
) -> list[list[float]]:
    """Train under DDP; return the rates in effect at each step, per group."""
    wrapped = DistributedDataParallel(model)
    rates = []
    for t in steps:
        if before_step:
            before_step(t)
        optimizer.zero_grad()
        loss = loss_at(wrapped, t, rank)
        loss.backward()
        rates.append([float(g["lr"]) for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step(loss)
    return rates


def weights(model: nn.Module) -> list[Tensor]:
    """Return copies of the parameters."""
    return [p.detach().clone() for p in model.parameters()]
