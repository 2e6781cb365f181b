"""What the tests of frameworks train, a plain loop to compare with, and how runs are read.

Importing a framework takes seconds, so the ranks import it once and do every run in turn.
"""

import traceback
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
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


def loss_of(model: Any, batch: Any) -> Tensor:
    """Return the loss of a network, or of the `net` of a LightningModule."""
    x, y = batch
    return (getattr(model, "net", model)(x) - y).square().mean()


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


def run_each(
    runs: Iterable[Callable[[Path], Any]], folder: str, names: list[str] | None
) -> dict[str, Any]:
    """Return what every run has seen on this rank; a text where it failed."""
    found: dict[str, Any] = {}
    for run in runs:
        if names is None or run.__name__ in names:
            own = Path(folder) / run.__name__
            own.mkdir(exist_ok=True)
            try:
                found[run.__name__] = run(own)
            except Exception:
                found[run.__name__] = traceback.format_exc()
    return found


def reader(found: list[dict[str, Any]]) -> Callable[[str], list[Any]]:
    """Return a function that gives what all ranks have seen in a run, by its name."""

    def read(name: str) -> list[Any]:
        seen = [rank[name] for rank in found]
        for one in seen:
            assert not isinstance(one, str), one
        return seen

    return read


def assert_same(run: dict[str, Any], other: dict[str, Any]) -> None:
    """Raise unless two runs end at the same weights, values and step, to the last bit."""
    assert run["weights"] == other["weights"]
    assert run["metrics"]["values"] == other["metrics"]["values"]
    assert run["metrics"]["step"] == other["metrics"]["step"]
