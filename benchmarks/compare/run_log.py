"""The log of one run: `metrics.jsonl`, and the means and times that its result needs.

The replicas' losses are gathered in blocks, so that logging is not what is measured.
Every rank keeps the means of all of them; only rank 0 writes.
"""

import json
import math
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..core.files import append, damaged, write_whole
from .records import Result, checked_lines


class RunLog:
    """What happened at each step and sync; call `begin` first."""

    def __init__(self, path: Path) -> None:
        self._path = path / "metrics.jsonl"
        self._pending: list[dict[str, Any]] = []
        self._block: list[Tensor] = []
        self._means: list[float] = []
        self._rates: list[float] = []
        self._seconds = 0.0
        self._sync_seconds = 0.0

    @property
    def last_loss(self) -> float:
        """The mean over replicas at the last step of the last block; NaN before."""
        return self._means[-1] if self._means else math.nan

    def begin(self, done: int) -> None:
        """Keep the lines of the first `done` steps, and go on behind them. Local."""
        anew = f"remove {self._path.parent}, and --resume does that run again"
        lines = checked_lines(self._path, anew) if done else ()
        # A torn last line is of a later step.
        kept = list(takewhile(lambda line: line["step"] <= done, lines))
        for line in kept:
            if line["kind"] == "step":
                self._add(line)
        if len(self._means) != done:
            what = f"it has {len(self._means)} of the {done} steps that its checkpoint has seen"
            raise damaged(self._path, what, anew)
        if dist.get_rank() == 0:
            # Other ranks may be reading still: they must find the old file or the new.
            write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    def step(self, step: int, loss: Tensor, metrics: dict[str, Any], seconds: float) -> None:
        """Take note of a step, and of the metrics before it; no loss is waited for. Local."""
        self._block.append(loss.detach().double())
        self._seconds += seconds
        rates = {key: metrics[key] for key in ("base_lr", "replica_lr")}
        self._pending.append({"kind": "step", "step": step, **rates})

    def sync(self, step: int, milliseconds: float, metrics: dict | None) -> None:
        """Take note of an averaging, and of what the scheduler found at it. Local."""
        self._sync_seconds += milliseconds / 1000
        if metrics is not None:
            self._pending.append({"kind": "sync", **metrics, "step": step})

    def flush(self) -> None:
        """Gather the losses of this block and write its lines. Collective."""
        if not self._block:
            return
        mine = torch.stack(self._block)
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, mine)
        by_step = iter(torch.stack(everyone, 1).tolist())
        for line in self._pending:
            if line["kind"] == "step":
                line["losses"] = next(by_step)
                self._add(line)
        if dist.get_rank() == 0:
            append(self._path, self._pending)
        self._pending, self._block = [], []

    def _add(self, line: dict[str, Any]) -> None:
        self._means.append(sum(line["losses"]) / len(line["losses"]))
        self._rates.append(sum(line["base_lr"]) / len(line["base_lr"]))

    def state_dict(self) -> dict[str, float]:
        """Return this rank's times; the rest is in the file."""
        return {"seconds": self._seconds, "sync_seconds": self._sync_seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on adding to the times of `state`."""
        self._seconds, self._sync_seconds = state["seconds"], state["sync_seconds"]

    def result(self, held_out: float) -> Result:
        """Return how the run ended, the same on every rank. Collective."""
        # No step at all is what a run leaves that is lost at its very first.
        means, rates = self._means or [math.nan], self._rates or [math.nan]
        tail = means[-max(1, len(means) // 10) :]
        seconds = torch.tensor([self._seconds, self._sync_seconds])
        dist.all_reduce(seconds)
        total, syncs = (seconds / dist.get_world_size()).tolist()
        return Result(
            train_loss=sum(tail) / len(tail),
            held_out_loss=held_out,
            diverged=not math.isfinite(held_out) or unlearned(means),
            mean_lr=sum(rates) / len(rates),
            final_lr=rates[-1],
            seconds=total,
            sync_share=syncs / total if total else 0.0,
        )


def unlearned(means: list[float]) -> bool:
    """Whether a run has diverged, from the mean loss of each step.

    It has if a loss is not finite, or the last tenth of the steps (at least ten) ends more
    than 2 % above the first. The margin is for warm starts at a high rate, which neither
    learn nor unlearn: batches alone move the mean of a tenth by about 1 %.
    """
    if not all(map(math.isfinite, means)):
        return True
    width = max(10, len(means) // 10)
    head, tail = means[:width], means[-width:]
    return sum(tail) / len(tail) > 1.02 * sum(head) / len(head)
