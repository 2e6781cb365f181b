"""Ratios, spreads, tables and the page are those computed by hand."""

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bilevel.analysis import intervals, ratios_table, tables
from benchmarks.bilevel.findings import by_start, comparison, duels, hindsight, of, spread
from benchmarks.bilevel.formats import count, loss, percent, power, ratio, ratio_interval
from benchmarks.bilevel.study import Folder, Plan, Unit, unfinished
from benchmarks.core.statistics import estimate
from tests.benchmarks.bilevel.made_up import METHODS, folder_of, of_unit, outcome

PLAN = Plan(["comparison", "prototype", "crossover"], ["tv", "foe"], methods=METHODS)
ONE_TASK = Plan(["comparison"], ["foe"], methods=METHODS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return folder_of(tmp_path_factory.mktemp("run"), PLAN)


@pytest.fixture(scope="module")
def runs(folder: Folder) -> Any:
    return comparison(folder)


def test_losses_and_ratios_by_hand(runs: Any) -> None:
    one = of(runs, "foe", "hoag-exponential")
    expected = estimate([2.0, 2 * 1.1 * 1.002, 2 * 1.2 * 1.004])
    first, _, last = by_start(one, "judged loss")
    assert (first.mean, first.error) == pytest.approx((expected.mean, expected.error))
    assert last.mean == pytest.approx(1.004 * expected.mean)
    logs = estimate([math.log(2 * (1 + 0.002 * seed)) for seed in range(3)])
    for found in by_start(one, "log_ratio"):
        assert (found.mean, found.error) == pytest.approx((logs.mean, logs.error))
    assert spread(one).mean == pytest.approx(0.004)


def test_the_best_fixed_accuracy_is_found_in_hindsight(runs: Any) -> None:
    found = hindsight(runs)
    assert list(found) == ["tv", "foe"]
    assert (found["tv"]["method"], found["tv"]["start"]) == ("fixed", 1e-3)
    logs = [one.mean for one in found["tv"]["log_ratios"]]
    assert math.exp(logs[0]) == pytest.approx(0.99 * 1.002, rel=1e-5)
    assert logs[2] == pytest.approx(logs[0] - math.log(1.004))


def test_baselines_below_and_above_maid_are_counted(runs: Any) -> None:
    found = duels(runs).set_index(["task", "start"])
    # Both fixed accuracies are lower from 1e-3 alone, by a hundredth.
    assert list(found.loc["tv", "lower"]) == [0, 2, 0]
    assert list(found.loc["tv", "above"]) == [4, 2, 4]
    assert set(found["baselines"]) == {4}
    shown = intervals(runs).set_index(["task", "method"])
    assert shown.loc[("tv", "HOAG cubic"), "ratio, 1e-3"] == "3.006 (2.991 to 3.021)"


def test_a_seed_counts_once_all_its_starts_are_there(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict | None:
        gone = {("maid", 1e-5, 2), ("hoag-cubic", 1e-3, 0)}
        return None if (unit.method, unit.start, unit.seed) in gone else of_unit(unit)

    folder = folder_of(tmp_path, ONE_TASK, make)
    runs = comparison(folder)
    assert set(of(runs, "foe", "maid")["seed"]) == {0, 1}
    assert set(of(runs, "foe", "hoag-cubic")["seed"]) == {1}
    assert len(unfinished(folder)) == 2
    # A mean over other seeds is not compared.
    assert set(duels(runs)["baselines"]) == {3}


def test_a_loss_that_cannot_be_had_decides_nothing(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict:
        failed = unit.method == "hoag-cubic"
        return outcome(unit, None, failure="not finite") if failed else of_unit(unit)

    folder = folder_of(tmp_path, ONE_TASK, make)
    assert list(duels(comparison(folder))["above"]) == [3, 1, 3]
    shown = tables(folder)
    assert list(shown["foe: loss"].iloc[-1]) == ["HOAG cubic", *["–"] * 4]
    assert shown["foe: how the runs went"]["failed"].iloc[-1] == "9 of 9"


def test_tables_by_hand(folder: Folder) -> None:
    shown = tables(folder)
    assert list(shown["foe: loss"].iloc[0]) == [
        "MAID", "1.100 ± 0.058", "1.100 ± 0.058", "1.104 ± 0.058", "0.40 ± 0.00 %"
    ]  # fmt: skip
    course = shown["tv: how the runs went"].set_index("method").loc["fixed accuracy"]
    # From the loosest start it stops after 4 of 40 steps: 500 ms, 50 ms and 50 ms.
    assert list(course[["outer steps", "failed searches", "cost spent"]]) == [
        "28",
        "3",
        "2,007",
    ]
    assert list(course[["stopped", "ms per step"]]) == ["3 of 9", "200"]
    outer = shown["By condition number: outer steps"].set_index("method")
    assert list(outer.loc["fixed accuracy 1e-4"]) == ["1", "2", "3", "5", "7"]
    assert list(outer.loc["MAID, Newton-CG below"]) == ["–"] * 5
    assert list(outer.loc["published: fixed accuracy 1e-4"]) == ["2", "5", "9", "16", "23"]
    paper = shown["Problem A at the paper's setting"]
    assert list(paper["eps0 = delta0"]) == ["1e-1", "1e-3", "1e-5"] * 2
    psnr = shown["tv: further measures, 1"]
    assert list(psnr.iloc[0]) == ["MAID", *["25.00 ± 0.00"] * 3, *["24.00 ± 0.00"] * 3]


def test_how_numbers_read() -> None:
    assert [power(x) for x in (1e-1, 1e-5, 0.02, 1.0)] == ["1e-1", "1e-5", "0.02", "1"]
    assert loss(estimate([0.16, 0.18])) == "0.1700 ± 0.0100"
    assert loss(estimate([4605.0])) == "4605.0"
    assert loss(estimate([2e-7])) == "2.000e-07"
    assert ratio(estimate([math.log(2), math.log(8)])) == "4.000 ± 2.773"
    assert ratio_interval(estimate([math.log(2)])) == "2.000"
    assert percent(estimate([0.004])) == "0.40 %"
    assert percent(estimate([7.5, 8.5])) == "800 ± 50 %"
    assert [count(x) for x in (0, 0.5, 3, 12.3, 1234.5)] == ["0", "0.5", "3", "12", "1,234"]
    assert {f(estimate([])) for f in (loss, ratio, ratio_interval, percent)} == {"–"}


def test_the_pages_first_table_by_hand(runs: Any) -> None:
    shown = ratios_table(runs, ["tv", "foe"]).set_index("method")
    assert shown.loc["HOAG cubic", "tv"] == "3.006 / 3.006"
    assert shown.loc["DFO-LS", "foe"] == ""
    assert shown.loc["**MAID: the loss itself**", "foe"].endswith("→ 1.10")
