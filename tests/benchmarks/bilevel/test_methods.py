"""Methods by name: each is the library's own, and each one's arguments reach it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks.bilevel.methods import METHODS, PROTOTYPES
from benchmarks.bilevel.tasks import TASKS, Task
from hdet.bilevel import Rules, fixed_accuracy, hoag, maid

SCHEDULES = ("exponential", "quadratic", "cubic")
PAPER = Rules.paper(relax=1.25)
CALLS: dict[str, Callable[..., Any]] = {
    "maid": partial(maid, certify=False),
    "maid-certified": partial(maid, certify=True),
    "maid-monotone": partial(maid, rules=Rules(memory=1), certify=False),
    "maid-paper": partial(maid, rules=PAPER, certify=False),
    "fixed": fixed_accuracy,
    "fixed-paper": partial(fixed_accuracy, rules=PAPER),
    **{f"hoag-{name}": partial(hoag, schedule=name) for name in SCHEDULES},
    "certified": partial(maid, rules=PAPER, residual=1e-3, certify=True),
    "plain": partial(maid, rules=PAPER, residual=1e-3, certify=False),
}


@pytest.fixture(scope="module")
def task() -> Task:
    return TASKS["quadratic"](0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_down_within_its_budget(task: Task, name: str) -> None:
    if name == "dfo-ls":
        pytest.importorskip("dfols")
    steps = []
    callback = lambda step, state: steps.append(step)
    call = METHODS[name].call
    result = call(task, accuracy=1e-3, budget=300, max_steps=10**9, callback=callback)
    assert result.value < 0.2 * float(task.problem.upper(task.x0))
    assert 0 < result.counts.cost <= 300
    assert steps == result.history


@pytest.mark.parametrize("name", CALLS)
def test_names_are_the_librarys_functions(task: Task, name: str) -> None:
    given: dict[str, Any] = {"accuracy": 1e-3, "max_steps": 6}
    found = (METHODS | PROTOTYPES)[name].call(task, **given)
    expected = CALLS[name](task.problem, task.theta0, task.x0, step=0.01, **given)
    assert found.history == expected.history
    assert torch.equal(found.theta, expected.theta)
