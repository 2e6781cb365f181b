"""Rows and verdicts are those computed by hand; what is not there is left out."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.federated import grid, selections
from benchmarks.federated.findings import Findings, content, findings
from benchmarks.federated.units import SELECTORS, STRATEGIES, Plan, Unit
from benchmarks.federated.verdicts import verdicts
from tests.benchmarks.federated.made_up import folder_of, of_unit

RATES = Plan(["rates"], rate_seeds=2, rounds=2)
SELECTION = Plan(["selection", "mu"], selection_seeds=4, rounds=2)


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings(folder_of(tmp_path_factory.mktemp("rates"), RATES))


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings(folder_of(tmp_path_factory.mktemp("selection"), SELECTION))


def of(found: Findings, strategy: str, task: str = "digits") -> grid.Row:
    return next(row for row in found.rates if (row.task, row.strategy) == (task, strategy))


def test_a_strategys_row_by_hand(rates: Findings) -> None:
    row = of(rates, "fedhyper")
    # 5 points in seed 0 and 5.1 in seed 1; Student's 0.975 of one degree is 12.7062.
    for gain in (row.gain, row.cells[7].gain):
        assert gain.mean == pytest.approx(5.05)
        assert gain.error == pytest.approx(0.05)
        assert gain.low == pytest.approx(5.05 - 12.7062 * 0.05, abs=1e-4)
    # The rates' means are 0.0332 and 1.15.
    assert row.by_seed == pytest.approx(
        [50.01 + 6.64 + 1.15 + 5, 50.01 + 6.64 + 1.15 + 5.1 + 0.25]
    )
    assert row.mean.mean == pytest.approx(62.975)
    assert (row.worst.local_rate, row.worst.global_rate) == (0.001, 0.5)
    assert row.worst.by_seed == pytest.approx([55.71, 56.06])
    assert (row.clear(1), row.clear(-1), row.diverged) == (25, 0, 0)
    assert of(rates, "decay-sl").clear(-1) == 25
    assert grid.gains_by_local_rate(row) == pytest.approx(dict.fromkeys(grid.LOCAL_RATES, 5.05))


def test_worst_cells_and_means_are_compared_by_seed(rates: Findings) -> None:
    ours, other = of(rates, "fedhyper"), of(rates, "fedadam")
    # 5 - 3, and 1.02 times that.
    for found in (grid.worst_against(ours, other), grid.mean_against(ours, other)):
        assert found.mean == pytest.approx(2.02)
        assert found.error == pytest.approx(0.02)
    once = replace(other, seeds=[1], by_seed=[60.0])
    assert grid.mean_against(ours, once).mean == pytest.approx(ours.by_seed[1] - 60)


def test_all_tasks_and_strategies_have_a_row_in_order(rates: Findings) -> None:
    assert [row.strategy for row in rates.rates] == [*STRATEGIES] * 2
    assert [row.task for row in rates.rates[:: len(STRATEGIES)]] == ["digits", "fashion"]
    assert rates.missing == 0


def test_half_grids_are_left_out(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict | None:
        s = unit.settings
        cell = (s.local_rate, s.global_rate) == (0.05, 1.5)
        if cell and (s.task, s.strategy, s.seed) in {
            ("digits", "fedexp", 1),
            ("digits", "fedhyper", 0),
            ("fashion", "fedavg", 0),
        }:
            return None
        return of_unit(unit)

    found = findings(folder_of(tmp_path, RATES, make))
    assert found.missing == 3
    seeds = {(row.task, row.strategy): row.seeds for row in found.rates}
    assert seeds["digits", "fedexp"] == [0]
    assert seeds["digits", "fedhyper"] == [1]
    assert seeds["digits", "fedadam"] == [0, 1]
    # Without FedAvg there is nothing to compare with.
    assert {seeds["fashion", name][0] for name in STRATEGIES} == {1}
    assert of(found, "fedexp").gain.sign == 0
    # No seed has both.
    assert math.isnan(grid.mean_against(of(found, "fedhyper"), of(found, "fedexp")).mean)
    assert not any(one.clear for one in found.verdicts)


def test_what_diverged_is_counted_and_sets_no_target(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict:
        made, s = of_unit(unit), unit.settings
        if (s.strategy, s.task, s.local_rate) == ("fedavg", "digits", 0.1):
            made |= {"accuracies": [10.0] * 3, "last": 10.0, "diverged": True}
        return made

    found = findings(folder_of(tmp_path, RATES, make))
    ours, plain = of(found, "fedhyper"), of(found, "fedavg")
    assert (ours.speed.targets, ours.speed.runs) == (40, 50)
    assert plain.diverged == 10
    assert plain.cells[-1].diverged == 2


def test_verdicts_on_rates_by_hand(rates: Findings) -> None:
    mine = [one for one in rates.verdicts if one.task == "digits"]
    assert [one.comparisons for one in mine] == [25, 1, 1, 6]
    # Rounds are the same as FedAvg's; the correction is for 66 comparisons of two seeds.
    assert [one.reached for one in mine] == [True, True, False, True]
    assert [one.clear for one in mine] == [True, True, False, True]
    assert not any(one.corrected for one in mine)
    assert mine[0].measured.startswith(
        "0 of 25 are, 0 clearly; lowest +5.05 (+4.41 to +5.69) at beta "
    )
    assert "above the paper's range" in mine[1].measured
    assert mine[2].measured.startswith("1.00 (1.00 to 1.00), the mean")
    assert "FedAdam +2.02 (+1.77 to +2.27)" in mine[3].measured


@pytest.mark.parametrize(
    ("gain", "reached"), [(-0.4, [True, False]), (-0.6, [False, False]), (2.3, [True, True])]
)
def test_a_gain_is_judged_against_what_is_wanted(
    tmp_path: Path, gain: float, reached: list[bool]
) -> None:
    def make(unit: Unit) -> dict:
        made = of_unit(unit)
        if unit.settings.strategy == "fedhyper":
            plain = Unit("rates", replace(unit.settings, strategy="fedavg"))
            made = made | {"last": of_unit(plain)["last"] + gain}
        return made

    found = findings(folder_of(tmp_path, RATES, make)).verdicts
    assert [one.reached for one in found[:2]] == reached
    below = 25 if gain < -0.5 else 0
    assert found[0].measured.startswith(
        f"{below} of 25 are, {below} clearly; lowest {gain:+.2f}"
    )


def test_a_selectors_row_by_hand(selection: Findings) -> None:
    rows = [row for row in selection.selection if row.task == "mnist"]
    assert [row.selector for row in rows] == [*SELECTORS]
    ours = next(row for row in rows if row.selector == "hetero-select")
    # 4, 4.04, 4.08 and 4.12 points; Student's 0.975 of three degrees is 3.182446.
    found, error = ours.against["last"], 0.04 * math.sqrt(5 / 3) / 2
    assert found.mean == pytest.approx(4.06)
    assert found.error == pytest.approx(error)
    assert found.low == pytest.approx(4.06 - 3.182446 * error)
    assert ours.against["late_deviation"].mean == pytest.approx(-1.5)
    assert ours.means["late_deviation"].mean == pytest.approx(1.15)
    assert selections.better(ours, rows[0], "late_deviation").sign == 1
    assert selections.better(ours, rows[0], "worst_class").sign == 0
    chosen = next(row for row in rows if row.selector == "power-of-choice")
    assert selections.better(ours, chosen, "probed").mean == 100


def test_verdicts_on_selection_by_hand(selection: Findings) -> None:
    mine = [one for one in selection.verdicts if one.task == "fashion"]
    assert [one.comparisons for one in mine] == [4, 4, 4]
    assert [one.reached for one in mine] == [True, True, False]
    assert [one.clear for one in mine] == [True, True, False]
    assert mine[0].wanted == "a higher accuracy of the last rounds than every rival"
    assert (
        "than Random +4.06 (+3.98 to +4.14), Power-of-Choice +2.03 (+1.99 to +2.07)"
        in mine[0].measured
    )
    assert "than Random +1.50 (+1.50 to +1.50)" in mine[1].measured


def test_other_strengths_of_the_term_are_paired_with_none(selection: Findings) -> None:
    assert [row.mu for row in selection.mu] == [
        m for m in (0, 0.01, 0.1, 0.5) for _ in range(4)
    ]
    by_mu = {row.mu: row for row in selection.mu if row.selector == "random"}
    assert selections.difference(by_mu[0.5], by_mu[0.0], "last").mean == pytest.approx(-5.0)
    assert by_mu[0.1].means == selection.selection[0].means


def test_a_seed_counts_once_random_has_it(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict | None:
        gone = (unit.settings.selector, unit.settings.seed) in {("random", 2), ("oort", 0)}
        return None if gone else of_unit(unit)

    plan = replace(SELECTION, experiments=["selection"])
    found = findings(folder_of(tmp_path, plan, make))
    seeds = {row.selector: row.seeds for row in found.selection}
    assert (seeds["hetero-select"], seeds["oort"]) == ([0, 1, 3], [1, 3])
    assert found.mu == []


def test_nothing_is_wanted_of_what_has_not_run() -> None:
    assert verdicts([], []) == []


def test_the_content_is_json_without_single_seeds_of_selection(
    rates: Findings, selection: Findings
) -> None:
    both = replace(rates, selection=selection.selection, mu=selection.mu)
    found = json.loads(json.dumps(content(both)))
    assert len(found["rates"]) == 2 * len(STRATEGIES)
    cell = found["rates"][1]["worst"]
    assert cell["gain_mean"] == pytest.approx(5.05)
    assert "by_seed" not in cell
    assert "values" not in found["selection"][0]
    assert found["settings"]["rates"]["digits"]["concentration"] == 0.5
    assert found["settings"]["rates"]["fashion"]["pool"] == 2
