"""What the peers' tests share: a problem without noise, short problems, and their packages."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from benchmarks.robustness.problems import PROBLEMS, Problem
from benchmarks.tasks import Task

# The module of each method that has a package beyond the benchmarks' own requirements.
MODULES = {
    "lr-finder": "torch_lr_finder",
    "momo": "momo",
    "schedule-free": "schedulefree",
    "prodigy-schedule-free": "prodigyplus",
    "prodigy": "prodigyopt",
    "d-adaptation": "dadaptation",
    "dog": "dog",
    "mechanic": "mechanic_pytorch",
}


def needs(*methods: str) -> pytest.MarkDecorator:
    """Return the mark that skips a test whose methods' packages are not installed."""
    missing = [MODULES[m] for m in methods if m in MODULES and not find_spec(MODULES[m])]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def of(names) -> list:
    """Return methods' names as parameters, each skipped where its package is not installed."""
    return [pytest.param(name, marks=needs(name)) for name in names]


def problem(optimizer: str, steps: int, task: str = "regression", **other) -> Problem:
    """Return a short problem with one-cycle."""
    known = {"optimizer": optimizer, "steps": steps, "task": task, "name": f"{task}-test"}
    known["centre"] = {"sgd": 0.1, "adamw": 0.01}.get(optimizer, 0.01)
    return replace(PROBLEMS["regression-sgd"], **known, **other)


class Quadratic(Task):
    """One half of the squared distance to a point, without noise."""

    name, title, low_lr, batch_size = "quadratic", "", 0.01, 1

    def network(self):
        # It maps 1 to its weights: three numbers, each to reach 1.
        return nn.Linear(1, 3, bias=False)

    def loss(self, model, batch):
        return 0.5 * (model(batch[0]) - 1).square().sum(dim=1).mean()

    def batch(self, seed, step, rank, world_size):
        return (torch.ones(1, 1),)

    def held_out(self):
        return [(torch.ones(1, 1),)]
