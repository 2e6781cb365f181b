"""Methods by name: each is the library's own, and each one's arguments reach it."""

from typing import Any

import pytest
import torch

from benchmarks.bilevel.methods import BASELINES, DERIVATIVE_FREE, METHODS, PROTOTYPES
from benchmarks.bilevel.tasks import TASKS, Task
from hdet.bilevel import Result, Rules, fixed_accuracy, hoag, maid

GIVEN: dict[str, Any] = {"accuracy": 1e-3, "max_steps": 6}


@pytest.fixture(scope="module")
def task() -> Task:
    return TASKS["quadratic"](0)


def same(one: Result, other: Result) -> bool:
    return one.history == other.history and torch.equal(one.theta, other.theta)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_down_within_its_budget(task: Task, name: str) -> None:
    if name == "dfo-ls":
        pytest.importorskip("dfols")
    steps = []
    result = METHODS[name].call(
        task,
        accuracy=1e-3,
        budget=300,
        max_steps=10**9,
        callback=lambda step, state: steps.append(step),
    )
    before = float(task.problem.upper(task.x0))
    assert result.value < 0.2 * before
    assert 0 < result.counts.cost <= 300
    assert steps == result.history
    assert set(METHODS) >= {*BASELINES, *DERIVATIVE_FREE}


def test_names_are_the_librarys_functions(task: Task) -> None:
    start = (task.problem, task.theta0, task.x0)
    given = {**GIVEN, "step": task.step}
    for name, rules, certify in (
        ("maid", Rules(), False),
        ("maid-certified", Rules(), True),
        ("maid-monotone", Rules(memory=1), False),
        ("maid-paper", Rules.paper(relax=1.25), False),
    ):
        expected = maid(*start, rules=rules, certify=certify, **given)
        assert same(METHODS[name].call(task, **GIVEN), expected), name
    for name, rules in (("fixed", Rules()), ("fixed-paper", Rules.paper(relax=1.25))):
        expected = fixed_accuracy(*start, rules=rules, **given)
        assert same(METHODS[name].call(task, **GIVEN), expected), name
    for schedule in ("exponential", "quadratic", "cubic"):
        expected = hoag(*start, schedule=schedule, **given)
        assert same(METHODS[f"hoag-{schedule}"].call(task, **GIVEN), expected), schedule


@pytest.mark.parametrize(("name", "certify"), [("certified", True), ("plain", False)])
def test_prototypes_have_the_papers_setting(task: Task, name: str, certify: bool) -> None:
    expected = maid(
        task.problem,
        task.theta0,
        task.x0,
        residual=1e-3,
        step=0.01,
        rules=Rules.paper(relax=1.25),
        certify=certify,
        **GIVEN,
    )
    assert same(PROTOTYPES[name].call(task, **GIVEN), expected)
