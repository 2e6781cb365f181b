"""A run of the bilevel benchmark: its numbers, its cost, and how one that fails ends."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.bilevel import execution
from benchmarks.bilevel.execution import POINTS, outcome, thinned
from benchmarks.bilevel.runs.tasks import Task
from benchmarks.bilevel.units import DERIVATIVE_FREE, Plan, Unit, known_methods, units
from hdet.bilevel import Problem

TINY = Unit("comparison", "quadratic", "maid", 1e-3, 0, 200)


@pytest.fixture
def curving_less(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a task in place whose mu holds near the start only."""
    one = torch.ones(1, dtype=torch.float64)

    def lower(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return ((x - theta).square() / torch.where(theta.abs() > 3, 4, 2)).sum()

    problem = Problem(lambda x: (x - 100 * one).square().sum() / 2, lower, mu=1.0)
    task = Task("one", "one number", problem, 0 * one, 0 * one, 1e-2, 1.05, lambda *_: {})
    monkeypatch.setattr(execution, "load", lambda name, seed: task)
    execution._start.cache_clear()
    yield
    execution._start.cache_clear()


@pytest.mark.parametrize(
    "unit",
    [
        TINY,
        replace(TINY, method="maid-certified"),
        replace(TINY, method="fixed-paper"),
        replace(TINY, method="hoag-cubic"),
        replace(TINY, experiment="prototype", method="certified"),
        replace(TINY, experiment="prototype", method="plain"),
    ],
    ids=lambda unit: f"{unit.experiment}-{unit.method}",
)
def test_a_run_gives_the_same_numbers_again(unit: Unit) -> None:
    first, second = outcome(unit), outcome(unit)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["judged"]["loss"] < first["start"]["loss"]
    assert first["cost"] <= unit.budget
    counted = first["counts"]
    assert first["cost"] == sum(counted.values()) - counted["upper_gradients"]
    assert (first["failure"], first["stuck"], first["status"]) == ("", False, "BUDGET")
    costs = [cost for cost, _, _ in first["trajectory"]]
    assert costs == sorted(costs)
    assert first["trajectory"][0] == [0, pytest.approx(first["start"]["loss"]), 1e-3]
    json.dumps(first, allow_nan=False)


def test_a_run_of_the_crossover_gets_there() -> None:
    made = outcome(Unit("crossover", "condition-2", "paper", 0.1, 0, 0))
    assert (made["outer"], made["reached"]) == (2, True)


def test_a_fixed_accuracy_that_is_too_loose_stops() -> None:
    made = outcome(replace(TINY, method="fixed", start=1e-1, budget=2000))
    assert (made["status"], made["stuck"]) == ("LINE_SEARCH", True)
    assert made["cost"] < 2000


@pytest.mark.usefixtures("curving_less")
def test_a_run_that_fails_is_judged_where_it_was_before() -> None:
    made = outcome(replace(TINY, method="hoag-exponential"))
    assert made["status"] == "FAILED"
    assert "`Problem(mu=1)` is contradicted" in made["failure"]
    assert not made["stuck"]
    assert made["start"]["loss"] == pytest.approx(5000)
    assert 97**2 / 2 <= made["judged"]["loss"] < 5000
    assert made["steps"] == len(made["trajectory"]) - 1 > 0
    json.dumps(made, allow_nan=False)


def test_a_run_that_fails_at_once_stays_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise execution.NonFiniteError("not finite")

    monkeypatch.setattr(execution, "run_method", fail)
    made = outcome(TINY)
    assert made["judged"] == made["start"]
    assert (made["status"], made["steps"], made["cost"]) == ("FAILED", 0, 0)
    assert len(made["trajectory"]) == 1


def test_long_runs_are_thinned_at_their_ends_last() -> None:
    points = [(k, 0.0, 0.0) for k in range(5000)]
    kept = thinned(points)
    assert len(kept) <= POINTS
    assert kept[:3] == points[:3]
    assert kept[-1] == points[-1]
    assert kept == sorted(kept)
    assert thinned(points[:POINTS]) == points[:POINTS]


def test_all_units_of_the_quadratic_can_be_run() -> None:
    # Those that are dearer than this budget have tests of their own.
    methods = [name for name in known_methods() if name not in DERIVATIVE_FREE]
    plan = Plan(["comparison", "prototype"], ["quadratic"], 1, 0.01, methods)
    tiny = [unit for unit in units(plan) if unit.start == 1e-3]
    found = {unit.method: outcome(unit) for unit in tiny}
    assert all(made["judged"]["loss"] < made["start"]["loss"] for made in found.values())
    assert {made["parameters"] for made in found.values()} == {10}
