"""What the tests of loops inside a framework train, and a plain loop to compare with."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

import hdet
from hdet.seeding import generator

SYNC, LR, SIZE = 7, 0.05, 8  # optimizer steps between syncs, the rate, examples in a batch
DIFFERING: dict[str, Any] = {"search": False}  # the replicas differ from the first step on


def data(batches: int, name: str = "train") -> TensorDataset:
    """Return what two ranks need for so many batches each."""
    x = torch.randn(2 * batches * SIZE, 6, generator=generator(0, name))
    return TensorDataset(x, x.sin().sum(1, keepdim=True))


def net() -> nn.Sequential:
    """Return a model, the same each time."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    g = generator(0, "weights")
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / 3)
    return model


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (model(x) - y).square().mean()


def flat(model: nn.Module) -> list[float]:
    """Return all weights."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def probe_of(model: nn.Module) -> Any:
    # One batch: a resumed run draws from the beginning of the loader again.
    return hdet.probe(model, DataLoader(data(2, "probe"), batch_size=32), loss_of)


def explorer_of(
    optimizer: Any, model: nn.Module, raw: nn.Module, **settings: Any
) -> hdet.Explorer:
    """Return an Explorer around a cosine."""
    schedule = CosineAnnealingLR(optimizer, 400)
    given = {"sync_every": SYNC, "probe": probe_of(raw), "model": model} | settings
    return hdet.Explorer(optimizer, schedule, **given)


def plain(batches: Iterable[Any], accumulate: int = 1, **settings: Any) -> dict[str, Any]:
    """Train in a loop of torch's on this rank's batches."""
    batches = list(batches)
    model = net()
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    explorer = explorer_of(optimizer, ddp, model, **settings)
    for number, batch in enumerate(batches, start=1):
        last = number % accumulate == 0 or number == len(batches)
        with nullcontext() if last else ddp.no_sync():
            loss = loss_of(ddp, batch)
            (loss / accumulate).backward()
        explorer.observe(loss)
        if last:
            optimizer.step()
            explorer.step()
            optimizer.zero_grad()
    explorer.converge()
    return {"weights": flat(model), "metrics": explorer.metrics()}
