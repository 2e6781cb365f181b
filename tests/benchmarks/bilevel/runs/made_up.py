"""A run folder that no run has made."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.bilevel.runs.folder import Folder, Outcome
from benchmarks.bilevel.runs.settings import Settings
from hdet.bilevel import Counts, Status, Step

SETTINGS = Settings("quadratic", budget=100)


def step(k: int, **more: Any) -> Step:
    """Return outer step k of a run that goes down."""
    usual = {
        "step": k,
        "value": 10.0 / k,
        "bound": 11.0 / k,
        "accuracy": 0.1,
        "residual": 0.1,
        "length": 0.5,
        "norm": 1.0 / k,
        "error_bound": math.inf,
        "trials": 1,
        "refinements": 0,
        "cost": 20 * k,
    }
    return Step(**{**usual, **more})


def outcome(**more: Any) -> Outcome:
    """Return how it ended."""
    usual = {
        "message": f"Stopped because {Status.BUDGET}; {Status.BUDGET.remedy}.",
        "value": 2.5,
        "counts": Counts(40, 50, 10, 8),
        "failed_searches": 3,
        "before": {"loss": 20.0, "test_loss": 30.0},
        "after": {"loss": 2.25, "test_loss": 4.5},
        "seconds": 12.5,
    }
    return Outcome(**{**usual, **more})


def made_up(
    path: Path,
    steps: Sequence[Step] = tuple(step(k) for k in range(1, 5)),
    settings: Settings = SETTINGS,
    end: Outcome | None = outcome(),  # noqa: B008
    theta: Any = None,
) -> Folder:
    """Write a folder as a run would have."""
    folder = Folder(path)
    folder.create(settings)
    folder.begin([])
    for one in steps:
        folder.append(one)
    if end is not None:
        folder.write_theta(torch.ones(10) if theta is None else theta)
        folder.finish(end)
    return folder
