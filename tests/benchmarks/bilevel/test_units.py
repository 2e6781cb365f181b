"""Which runs there are: every method from every start, what is dear where it is cheap."""

from pathlib import Path

import pytest

from benchmarks.bilevel.units import (
    BUDGETS,
    DERIVATIVE_FREE,
    EXPERIMENTS,
    LABELS,
    Folder,
    Plan,
    condition,
    known_methods,
    methods_of,
    unfinished,
    units,
)
from tests.benchmarks.bilevel.made_up import folder_of, of_unit


def test_every_method_starts_everywhere_with_every_seed() -> None:
    plan = Plan(["comparison", "prototype"], seeds=2)
    every = units(plan)
    assert len({unit.key for unit in every}) == len(every)
    methods = sum(len(methods_of(plan, task)) for task in BUDGETS)
    assert len(every) == 2 * 3 * (methods + 2)
    assert every[0].key == "comparison/quadratic/maid/0.1/0"
    # Whatever ends a benchmark early leaves whole seeds.
    comparison = [unit.seed for unit in every if unit.experiment == "comparison"]
    assert comparison == sorted(comparison)


def test_only_the_quadratic_is_certified_and_few_parameters_go_without_gradients() -> None:
    plan = Plan(["comparison"], methods=list(LABELS))
    assert {task for task in BUDGETS if "maid-certified" in methods_of(plan, task)} == {
        "quadratic"
    }
    for name in DERIVATIVE_FREE:
        assert {t for t in BUDGETS if name in methods_of(plan, t)} == {"quadratic", "tv"}


def test_methods_that_there_are_have_labels() -> None:
    assert (
        {"maid", "maid-paper", "maid-certified", "fixed", "fixed-paper"}
        <= {*known_methods()}
        <= LABELS.keys()
    )
    crossover = units(Plan(["crossover"]))
    assert len({unit.key for unit in crossover}) == 5 * 5
    assert {condition(unit) for unit in crossover} == {2, 5, 10, 20, 30}
    assert {unit.experiment for unit in units(Plan([*EXPERIMENTS]))} == {*EXPERIMENTS}


def test_budgets_are_scaled() -> None:
    plan = Plan(["comparison", "prototype"], scale=0.1)
    assert {(u.experiment, u.task): u.budget for u in units(plan)} == {
        ("comparison", "quadratic"): 1000,
        ("comparison", "logistic"): 600,
        ("comparison", "tv"): 300,
        ("comparison", "foe"): 300,
        ("prototype", "quadratic"): 2000,
    }
    assert Plan(["comparison"], scale=1e-9).budget("tv") == 1


def test_a_folder_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    plan = Plan(["comparison"], ["foe"], seeds=1)
    folder = folder_of(
        tmp_path, plan, lambda unit: None if unit.start < 1e-4 else of_unit(unit)
    )
    assert folder.plan() == plan
    assert {unit.start for unit in unfinished(folder)} == {1e-5}
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"key": "comparison/foe/maid/1e-')
    assert len(unfinished(folder)) == len(methods_of(plan, "foe"))
    with pytest.raises(
        ValueError, match="is not a run folder of `python -m benchmarks bilevel`"
    ):
        Folder(tmp_path / "nowhere").plan()
