"""Which runs there are, what one run measures, and how one that fails is evaluated."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.bilevel import study
from benchmarks.bilevel.crossover import PUBLISHED
from benchmarks.bilevel.methods import DERIVATIVE_FREE, METHODS, Method
from benchmarks.bilevel.study import (
    BUDGETS,
    POINTS,
    Plan,
    Unit,
    methods_of,
    outcome,
    thinned,
    units,
)
from benchmarks.bilevel.tasks import Task
from hdet.bilevel import NonFiniteError, Problem

TINY = Unit("comparison", "quadratic", "maid", 1e-3, 0, 200)


def test_every_method_starts_everywhere_with_every_seed() -> None:
    plan = Plan(["comparison", "prototype"], seeds=2)
    every = units(plan)
    assert len({unit.key for unit in every}) == len(every)
    methods = sum(len(methods_of(plan, task)) for task in BUDGETS)
    assert len(every) == 2 * 3 * (methods + 2)
    assert every[0].key == "comparison/quadratic/maid/0.1/0"
    # Whatever ends a study early leaves whole seeds.
    comparison = [unit.seed for unit in every if unit.experiment == "comparison"]
    assert comparison == sorted(comparison)
    crossover = units(Plan(["crossover"]))
    assert len({unit.key for unit in crossover}) == 5 * 5
    assert {unit.condition for unit in crossover} == {2, 5, 10, 20, 30}


def test_only_the_quadratic_is_certified_and_few_parameters_go_without_gradients() -> None:
    plan = Plan(["comparison"], methods=list(METHODS))

    def on(method: str) -> set[str]:
        return {task for task in BUDGETS if method in methods_of(plan, task)}

    assert on("maid") == set(BUDGETS)
    assert on("maid-certified") == {"quadratic"}
    assert [on(name) for name in DERIVATIVE_FREE] == [{"quadratic", "tv"}] * 2


def test_budgets_are_scaled() -> None:
    plan = Plan(["comparison", "prototype"], scale=0.1)
    budgets = {(unit.experiment, unit.task): unit.budget for unit in units(plan)}
    assert budgets["comparison", "quadratic"] == 1000
    assert budgets["prototype", "quadratic"] == 2000
    assert Plan(["comparison"], scale=1e-9).budget("tv") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": math.nan},
        {"tasks": ["../tv"]},
        {"seeds": 0},
        {"experiments": ["crossover"] * 2},
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"`Plan\({name}="):
        Plan(**{"experiments": ["comparison"], **wrong})


@pytest.mark.parametrize(
    "unit",
    [
        TINY,
        replace(TINY, method="hoag-cubic"),
        replace(TINY, experiment="prototype", method="certified"),
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
    assert first["trajectory"][0] == [0, pytest.approx(first["start"]["loss"]), 1e-3]
    assert first["parameters"] == 10
    json.dumps(first, allow_nan=False)


@pytest.mark.parametrize("method", PUBLISHED)
def test_the_crossover_takes_the_published_steps(method: str) -> None:
    for condition, outer in zip((2, 5), PUBLISHED[method], strict=False):
        made = outcome(Unit("crossover", f"condition-{condition}", method, 0.1, 0, 0))
        assert (made["outer"], made["reached"]) == (outer, True)


def test_a_fixed_accuracy_that_is_too_loose_stops() -> None:
    made = outcome(replace(TINY, method="fixed", start=1e-1, budget=2000))
    assert (made["status"], made["stuck"]) == ("LINE_SEARCH", True)
    assert made["cost"] < 2000


def test_a_run_that_fails_is_evaluated_where_it_was_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task's mu holds near the start only."""
    one = torch.ones(1, dtype=torch.float64)

    def lower(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return ((x - theta).square() / torch.where(theta.abs() > 3, 4, 2)).sum()

    problem = Problem(lambda x: (x - 100 * one).square().sum() / 2, lower, mu=1.0)
    task = Task("one", "one number", problem, 0 * one, 0 * one, 1e-2, 1.05, lambda *_: {})
    monkeypatch.setattr(study, "load", lambda name, seed: task)
    # A seed of its own, as the starts of others are kept.
    made = outcome(replace(TINY, method="hoag-exponential", seed=99))
    assert made["status"] == "FAILED"
    assert "`Problem(mu=1)` is contradicted" in made["failure"]
    assert not made["stuck"]
    assert made["start"]["loss"] == pytest.approx(5000)
    assert 97**2 / 2 <= made["judged"]["loss"] < 5000
    assert made["steps"] == len(made["trajectory"]) - 1 > 0
    json.dumps(made, allow_nan=False)


def test_a_run_that_fails_at_once_stays_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NonFiniteError("not finite")

    monkeypatch.setitem(METHODS, "maid", Method("MAID", fail))  # pyright: ignore[reportArgumentType]
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
