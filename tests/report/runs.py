"""Records for the tests: one of a real run on two ranks, and lines made by hand."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.ranks.searched import Run

HEADER = {"hdet": "0.1.0", "format": 1, "replicas": 2, "explored": ["lr/0"], "written": [0.1],
          "sync_every": 10}  # fmt: skip


def real_run(path: str) -> None:
    """Train with two parameter groups; a spike rolls back. To be called on each rank."""
    explore = ("lr", "weight_decay")
    run = Run(explore=explore, sync_every=6, log=path)
    run.train(range(130))
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.mul_(30)
    run.train(range(130, 160))


def sync(
    step: int, rate: float = 0.05, loss: float | None = 2.0, **more: Any
) -> dict[str, Any]:
    """Return the line of a sync."""
    return {
        "time_ms": 1_800_000_000_000 + 1000 * step,
        "step": step,
        "base_lr": [rate],
        "replica_lr": [[0.9 * rate, 1.1 * rate]],
        "values": {"lr/0": rate / 0.1},
        "replica_values": {"lr/0": [0.9 * rate / 0.1, 1.1 * rate / 0.1]},
        "phase": "track",
        **{"rollbacks": 0, "exclusions": 0, "new_levels": 0},
        "losses": [loss, loss],
        **{"sync_ms": 5.0, "probe_ms": 1.0},
        **more,
    }


def climb(step: int, rate: float, **more: Any) -> dict[str, Any]:
    """Return the line of a step of the search."""
    line = {"time_ms": 1_800_000_000_000 + 1000 * step, "step": step, "phase": "climb"}
    return {**line, "base_lr": [rate], "replica_lr": [[rate, rate]], **more}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    """Write lines to a file; texts as they are, without an end of line."""
    texts = [one if isinstance(one, str) else json.dumps(one) + "\n" for one in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(texts))
    return path
