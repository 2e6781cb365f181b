"""Ratios, spreads and verdicts are those computed by hand."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.bilevel.findings import Findings, content, findings
from benchmarks.bilevel.rows import Row, log_ratio
from benchmarks.bilevel.units import Plan, Unit
from benchmarks.bilevel.verdicts import Verdict, verdicts
from benchmarks.bilevel.words import count, loss, percent, power, ratio
from benchmarks.federated.paired import interval
from tests.benchmarks.bilevel.made_up import METHODS, folder_of, loss_of, of_unit, outcome

PLAN = Plan(["comparison", "prototype", "crossover"], seeds=3, methods=METHODS)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings(folder_of(tmp_path_factory.mktemp("run"), PLAN))


def row(found: Findings, task: str, method: str) -> Row:
    (one,) = (row for row in found.rows if (row.task, row.method) == (task, method))
    return one


def verdict(found: Findings, task: str, words: str) -> Verdict:
    (one,) = (one for one in found.verdicts if one.task == task and words in one.wanted)
    return one


def test_a_row_by_hand(found: Findings) -> None:
    one = row(found, "quadratic", "hoag-exponential")
    assert one.seeds == [0, 1, 2]
    first, _, last = one.cells
    assert first.losses == pytest.approx([2.0, 2 * 1.1 * 1.002, 2 * 1.2 * 1.004])
    assert first.loss.mean == pytest.approx(sum(first.losses) / 3)
    expected = [math.log(2 * (1 + 0.002 * seed)) for seed in range(3)]
    for cell in (first, last):
        assert cell.log_ratio.mean == pytest.approx(interval(expected).mean)
        assert cell.log_ratio.error == pytest.approx(interval(expected).error)
    assert one.spread.mean == pytest.approx(0.004)
    assert (first.steps, first.milliseconds, first.stuck, one.runs) == (40, 50.0, 0, 9)
    assert row(found, "tv", "fixed").cells[0].stuck == 3


def test_the_best_fixed_accuracy_is_found_in_hindsight(found: Findings) -> None:
    assert [one.task for one in found.hindsight] == ["quadratic", "logistic", "tv", "foe"]
    best = found.hindsight[0]
    assert (best.row.method, best.cell.start) == ("fixed", 1e-3)
    assert math.exp(best.log_ratios[0].mean) == pytest.approx(0.99 * 1.002, rel=1e-5)
    assert best.log_ratios[2].mean < best.log_ratios[0].mean


def test_what_is_wanted_and_what_was_measured(found: Findings) -> None:
    assert len(found.verdicts) == 4 * (3 + 1) + 1 + 1 + 2
    lost = verdict(found, "tv", "from eps0 = 1e-3")
    assert (lost.reached, lost.clear, lost.comparisons) == (False, False, 5)
    assert lost.measured.startswith("2 of 5 have a lower mean loss; their loss over MAID's: ")
    assert "HOAG cubic 3.006 (2.991 to 3.021)" in lost.measured
    won = verdict(found, "tv", "from eps0 = 1e-1")
    assert (won.reached, won.clear) == (True, True)
    same = verdict(found, "logistic", "within 1 % of each other")
    assert (same.reached, same.clear) == (True, True)
    assert same.measured.startswith("0.40 ± 0.00 %; 1.100 ± 0.058 from 1e-1")
    sharp = verdict(found, "foe", "at least 24.4 dB")
    assert sharp.reached
    assert sharp.measured.endswith("noisy ones have 20.10 ± 0.00")
    none = [one for one in found.verdicts if "no search of the certified run" in one.wanted]
    assert [one.reached for one in none] == [True, True]
    # 24 from the first start, 24.1 from the last; and a tenth more with every seed.
    assert not verdict(found, "quadratic", "at most 24.5").reached


def test_one_failed_search_is_one_too_many(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict:
        last = unit.method == "maid-certified" and (unit.start, unit.seed) == (1e-5, 1)
        return outcome(unit, 1.0, failed_searches=1) if last else of_unit(unit)

    found = findings(
        folder_of(tmp_path, Plan(["comparison"], ["quadratic"], 2, 1.0, METHODS), make)
    )
    one = verdict(found, "quadratic", "no search")
    assert (one.reached, one.measured) == (
        False,
        "a run has 0 from 1e-1, 0 from 1e-3, 0.5 from 1e-5",
    )


def test_a_seed_counts_once_all_its_starts_are_there(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict | None:
        gone = {("maid", 1e-5, 2), ("hoag-cubic", 1e-3, 0)}
        return None if (unit.method, unit.start, unit.seed) in gone else of_unit(unit)

    found = findings(folder_of(tmp_path, Plan(["comparison"], ["foe"], 3, 1.0, METHODS), make))
    assert row(found, "foe", "maid").seeds == [0, 1]
    assert row(found, "foe", "hoag-cubic").seeds == [1]
    assert found.missing == 2
    # Who has other seeds is no rival yet.
    assert verdict(found, "foe", "eps0 = 1e-1").comparisons == 4


def test_a_loss_that_cannot_be_had_decides_nothing(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict:
        if unit.method != "hoag-cubic":
            return of_unit(unit)
        return outcome(unit, None, status="FAILED", failure="not finite")

    found = findings(folder_of(tmp_path, Plan(["comparison"], ["foe"], 2, 1.0, METHODS), make))
    cubic = row(found, "foe", "hoag-cubic")
    assert math.isnan(cubic.cells[0].loss.mean)
    assert cubic.cells[0].failed == 2
    assert not verdict(found, "foe", "eps0 = 1e-1").reached
    json.dumps(content(found)["tasks"], allow_nan=False)


def test_nothing_is_wanted_of_what_has_not_run() -> None:
    assert verdicts([], []) == []


def test_the_content_has_every_cell(found: Findings) -> None:
    made = json.loads(json.dumps(content(found)))
    cell = made["rows"][0]["cells"][0]
    assert (cell["start"], cell["ratio_to_maid"]["mean"]) == (0.1, 1.0)
    assert cell["judged"]["loss"]["mean"] == pytest.approx(1.1)
    assert "losses" not in cell
    assert made["hindsight"][0]["start"] == 1e-3
    assert made["crossover"][0] == {
        "condition": 2, "method": "paper", "outer": 2, "descent": 20, "cost": 40,
        "reached": True, "seconds": 1.0,
    }  # fmt: skip
    assert made["tasks"]["foe"]["start"]["noisy_psnr"] == 20.1


def test_ratios_are_paired_by_seed() -> None:
    assert log_ratio([2.0, 20.0], [1.0, 10.0]).error == pytest.approx(0, abs=1e-12)
    assert math.isnan(log_ratio([math.nan], [1.0]).mean)
    assert log_ratio([1.0], [0.0]).mean > 700
    assert loss_of(Unit("comparison", "tv", "maid", 1e-5, 1, 1)) == pytest.approx(1.1 * 1.004)


def test_words() -> None:
    assert [power(x) for x in (1e-1, 1e-5, 0.02, 1.0)] == ["1e-1", "1e-5", "0.02", "1"]
    assert loss(interval([0.16, 0.18])) == "0.1700 ± 0.0100"
    assert loss(interval([4605.0])) == "4605.0"
    assert loss(interval([2e-7])) == "2.000e-07"
    assert ratio(interval([math.log(2)])) == "2.000"
    assert percent(interval([0.004])) == "0.40 %"
    assert percent(interval([7.5, 8.5])) == "800 ± 50 %"
    assert [count(x) for x in (0, 0.5, 3, 12.3, 1234.5)] == ["0", "0.5", "3", "12", "1,234"]
    assert {f(interval([])) for f in (loss, ratio, percent)} == {"–"}
