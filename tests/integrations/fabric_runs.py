"""Loops with Lightning Fabric that its tests read: all in one pair of ranks."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from tests.integrations.loops import (
    DIFFERING,
    LR,
    SIZE,
    SYNC,
    data,
    explorer_of,
    flat,
    loss_of,
    net,
    plain,
    run_each,
)


class Run:
    """A user's loop; Explorer gets what `setup` returned, or with `raw` what went into it."""

    def __init__(
        self,
        batches: int,
        accumulate: int = 1,
        raw: bool = False,
        strategy: str = "ddp",
        **settings: Any,
    ) -> None:
        self.fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
        self.fabric.launch()
        self.raw, self.accumulate = net(), accumulate
        optimizer: Any = torch.optim.AdamW(self.raw.parameters(), LR)
        self.model, self.optimizer = self.fabric.setup(self.raw, optimizer)
        loader = DataLoader(data(batches), batch_size=SIZE)
        self.loader: Any = self.fabric.setup_dataloaders(loader)
        given = optimizer if raw else self.optimizer
        self.scheduler = explorer_of(given, self.model, self.raw, **settings)
        self.seen: dict[str, list] = {name: [] for name in ("losses", "told", "own")}
        self.batches: list[Any] = []

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def train(self, skip: int = 0, each: Callable[[int], None] | None = None) -> "Run":
        for number, batch in enumerate(self.loader, start=1):
            if number <= skip:
                continue
            self.batches.append(batch)
            last = number % self.accumulate == 0
            with self.fabric.no_backward_sync(self.model, enabled=not last):
                loss = loss_of(self.model, batch)
                self.fabric.backward(loss / self.accumulate)
            self.scheduler.observe(loss)
            if last:
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            self.seen["losses"].append(float(loss.detach()))
            self.seen["told"].append(self.scheduler.metrics().get("losses"))
            self.seen["own"].append(flat(self.raw))
            if each is not None:
                each(number)
        return self

    def result(self, **more: Any) -> dict[str, Any]:
        """Return what is left of the run, and what was seen. Collective."""
        self.scheduler.converge()
        numbers = self.scheduler.metrics()
        return {"weights": flat(self.raw), "metrics": numbers, **self.seen, **more}


# --- the runs


def search(_: Path) -> dict[str, Any]:
    """The whole search, with trials, beside that of a plain loop."""
    run = Run(140).train()
    return run.result(plain=plain(run.batches))


def accumulation(_: Path) -> dict[str, Any]:
    """Two micro-batches a step, in a search and between syncs."""
    run = Run(300, accumulate=2, raw=True).train()
    differing = Run(6 * SYNC - 2, accumulate=2, **DIFFERING).train()
    return {
        "search": run.result(plain=plain(run.batches, 2)),
        "differing": differing.result(plain=plain(differing.batches, 2, **DIFFERING)),
    }


def evaluation(_: Path) -> dict[str, Any]:
    """Evaluations amid intervals."""
    run, evaluated = Run(30, **DIFFERING), []

    def evaluate(number: int) -> None:
        if number % 5 == 0:
            with run.scheduler.converged(restore=True), torch.no_grad():
                score: Any = run.fabric.all_reduce(loss_of(run.model, data(2, "val")[:]))
                evaluated.append((flat(run.raw), float(score)))

    run.train(each=evaluate)
    return run.result(evaluated=evaluated, plain=plain(run.batches, **DIFFERING))


def resume(folder: Path) -> dict[str, Any]:
    """Train on 70 batches; again from a file that was saved amid an interval."""
    whole, inside = Run(70, **DIFFERING), []
    file = folder / "state.ckpt"

    def save(number: int) -> None:
        if number == 12:
            with whole.scheduler.converged():
                whole.fabric.save(file, whole.state)
                inside.append(flat(whole.raw))

    whole.train(each=save)
    again = Run(70, **DIFFERING)
    again.fabric.load(file, again.state)
    again.train(skip=12)
    saved = torch.load(file, weights_only=True)["model"]
    weights = torch.cat([saved[name].flatten() for name, _ in whole.raw.named_parameters()])
    return again.result(whole=whole.result(), saved=weights.tolist(), inside=inside[0])


def refused(folder: Path) -> dict[str, Any]:
    """What is warned of, and a strategy that shards."""
    run = Run(3, **DIFFERING).train()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.fabric.save(folder / "apart.ckpt", run.state)
    return {"saved": [str(w.message) for w in told if "hdet" in str(w.filename)]}


RUNS = [search, accumulation, evaluation, resume, refused]


def all_runs(folder: str, names: list[str] | None = None) -> dict[str, Any]:
    """Return what every run has seen on this rank; a text where it failed."""
    # So Fabric knows that its processes have been started, and which this is.
    os.environ["LOCAL_RANK"] = str(dist.get_rank())
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    return run_each(RUNS, folder, names)
