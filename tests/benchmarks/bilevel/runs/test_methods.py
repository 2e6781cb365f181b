"""Methods by name: each is the library's own, and each one's arguments reach it."""

from dataclasses import replace

import pytest
import torch

from benchmarks.bilevel.runs.methods import CERTIFIED, DERIVATIVE_FREE, METHODS, run_method
from benchmarks.bilevel.runs.tasks import TASKS, Task
from hdet.bilevel import Result, Rules, Status, fixed_accuracy, hoag, maid


@pytest.fixture(scope="module")
def task() -> Task:
    return TASKS["quadratic"](0)


def same(one: Result, other: Result) -> bool:
    return one.history == other.history and torch.equal(one.theta, other.theta)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_down_within_its_budget(task: Task, name: str) -> None:
    if name == "dfo-ls":
        pytest.importorskip("dfols")
    result = run_method(name, task, budget=300)
    before = float(task.problem.upper(task.x0))
    assert result.value < 0.2 * before
    assert 0 < result.counts.cost <= 300


@pytest.mark.parametrize("name", [name for name in METHODS if name not in DERIVATIVE_FREE])
def test_every_method_goes_on_from_its_state(task: Task, name: str) -> None:
    whole = run_method(name, task, max_steps=5)
    part = run_method(name, task, max_steps=3)
    end = run_method(name, task, max_steps=5, state=part.state)
    # The first gradient is computed, and counted, again.
    assert [replace(s, cost=0) for s in end.history] == [
        replace(s, cost=0) for s in whole.history
    ]
    assert torch.equal(end.theta, whole.theta)


def test_names_are_the_librarys_functions(task: Task) -> None:
    start = (task.problem, task.theta0, task.x0)
    given = {"max_steps": 6, "step": task.step}
    for name, rules in (
        ("maid", Rules()),
        ("maid-monotone", Rules(memory=1)),
        ("maid-paper", Rules.paper(relax=1.25)),
    ):
        expected = maid(*start, rules=rules, certify=False, **given)
        assert same(run_method(name, task, max_steps=6), expected), name
    assert same(run_method("fixed", task, max_steps=6), fixed_accuracy(*start, **given))
    for schedule in ("exponential", "quadratic", "cubic"):
        expected = hoag(*start, schedule=schedule, **given)
        assert same(run_method(f"hoag-{schedule}", task, max_steps=6), expected), schedule


def test_arguments_reach_the_method(task: Task) -> None:
    seen = []
    result = run_method(
        "fixed",
        task,
        accuracy=0.01,
        step=1e-4,
        max_steps=2,
        solver="lbfgs",
        callback=lambda step, state: seen.append(step),
    )
    assert seen == result.history
    assert [step.accuracy for step in seen] == [0.01, 0.01]
    assert seen[0].length <= 1e-4
    stopped = run_method("maid", task, tolerance=1e9)
    assert stopped.status is Status.GRADIENT_TOLERANCE


def test_maid_tests_its_bound_where_it_is_asked_to(task: Task) -> None:
    for certify, known in ((True, True), (False, False), (None, True)):
        result = run_method("maid", task, max_steps=1, certify=certify)
        assert (result.history[0].error_bound < float("inf")) is known


def test_what_cannot_be_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="name='sgd'.* is not known: write one of maid"):
        run_method("sgd", task)
    for name in METHODS:
        if name not in CERTIFIED:
            with pytest.raises(ValueError, match="certify=True.* has no meaning"):
                run_method(name, task, certify=True)
    assert run_method("fixed", task, certify=None, budget=20).counts.cost <= 20
