"""Rows and goals are those computed by hand; what is not there is left out."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.federated import analysis, selections, starts
from benchmarks.federated.methods import STRATEGIES
from benchmarks.federated.selections import Selections, better, compared
from benchmarks.federated.starts import Grid, paired, ratio, speed, worst_against
from benchmarks.federated.study import LOCAL_RATES, Plan, Unit
from benchmarks.selection_scale.study import scale_table
from tests.benchmarks.federated.made_up import folder_of, of_unit

RATES = Plan(["rates"], rate_seeds=2, rounds=2)
SELECTION = Plan(["selection", "mu"], selection_seeds=4, rounds=2)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return analysis.found_in(folder_of(tmp_path_factory.mktemp("rates"), RATES))[0]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Selections:
    return analysis.found_in(folder_of(tmp_path_factory.mktemp("chosen"), SELECTION))[1]


def test_a_strategys_row_by_hand(grid: Grid) -> None:
    row = grid["digits"]["fedhyper"]
    # 5 points in seed 0 and 5.1 in seed 1; Student's 0.975 of one degree is 12.7062.
    for gain in (row.gain, row.gains[0.005, 1.0]):
        assert gain.mean == pytest.approx(5.05)
        assert gain.error == pytest.approx(0.05)
        assert gain.low == pytest.approx(5.05 - 12.7062 * 0.05, abs=1e-4)
    # The rates' means are 0.0332 and 1.15.
    assert row.by_seed.tolist() == pytest.approx([62.8, 63.15])
    assert row.mean.mean == pytest.approx(62.975)
    assert row.worst == (0.001, 0.5)
    assert row.last[row.worst].tolist() == pytest.approx([55.71, 56.06])
    assert (row.worst_accuracy, row.best_accuracy) == pytest.approx((55.885, 77.185))
    assert (row.clear(1), row.clear(-1)) == (25, 0)
    assert grid["digits"]["decay-sl"].clear(-1) == 25
    assert row.gains_by_local_rate == pytest.approx(dict.fromkeys(LOCAL_RATES, 5.05))
    # FedAvg's accuracy is reached in round 2 of 3, in which FedAvg itself reaches it.
    assert speed(row.ratios) == (1.0, 1.0)
    assert row.faster_by_seed.mean == 1.0


def test_worst_starts_and_means_are_compared_by_seed(grid: Grid) -> None:
    ours, other = grid["digits"]["fedhyper"], grid["digits"]["fedadam"]
    # 5 - 3, and 1.02 times that.
    for found in (worst_against(ours, other), paired(ours.by_seed, other.by_seed)):
        assert found.mean == pytest.approx(2.02)
        assert found.error == pytest.approx(0.02)
    once = other.by_seed.drop(0)
    assert paired(ours.by_seed, once).mean == pytest.approx(63.15 - once[1])


def test_half_grids_are_left_out(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict | None:
        s = unit.settings
        cell = (s.local_rate, s.global_rate) == (0.05, 1.5)
        gone = {("digits", "fedexp", 1), ("digits", "fedhyper", 0), ("fashion", "fedavg", 0)}
        return None if cell and (s.task, s.strategy, s.seed) in gone else of_unit(unit)

    found, _ = analysis.found_in(folder_of(tmp_path, RATES, make))
    digits = {name: list(row.last.index) for name, row in found["digits"].items()}
    assert (digits["fedexp"], digits["fedhyper"], digits["fedadam"]) == ([0], [1], [0, 1])
    # Without FedAvg there is nothing to compare with.
    assert {tuple(row.last.index) for row in found["fashion"].values()} == {(1,)}
    assert list(found["fashion"]) == list(STRATEGIES)
    # One seed tells nothing for sure, and of these two no seed has both.
    assert found["digits"]["fedexp"].gain.sign == 0
    hyper, exp = (found["digits"][name].by_seed for name in ("fedhyper", "fedexp"))
    assert math.isnan(paired(hyper, exp).mean)


def test_what_diverged_is_counted_and_sets_no_target(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict:
        made, s = of_unit(unit), unit.settings
        if (s.strategy, s.task, s.local_rate) == ("fedavg", "digits", 0.1):
            made |= {"accuracies": [10.0] * 3, "last": 10.0, "diverged": True}
        return made

    found, _ = analysis.found_in(folder_of(tmp_path, RATES, make))
    rows = found["digits"]
    assert rows["fedhyper"].ratios.isna().to_numpy().sum() == 10
    assert rows["fedavg"].diverged.to_numpy().sum() == 10
    table = analysis.starts_table(rows).set_index("strategy")
    assert table.loc["FedAvg", "diverged"] == "10 of 50"


def test_a_ratio_by_hand() -> None:
    # Over the last ten rounds the plain run has 57 percent, in round 8 for the first time.
    plain = [20.0, 30.0, 40.0, 50.0, 52.0, 54.0, 56.0, 58.0, 60.0, 60.0, 60.0, 80.0]
    assert sum(plain[2:]) / 10 == 57.0
    assert ratio(plain, [50.0, 57.0, 10.0]) == 4.0
    assert ratio(plain, plain) == 1.0
    assert ratio(plain, [10.0, 56.9]) == 0.0
    assert math.isnan(ratio([10.0, 11.0, 12.0], [90.0]))
    # The mean of ten equal decimals is not always the decimal itself.
    assert ratio([24.51] * 10, [24.51]) == 1.0


def test_goals_by_hand(grid: Grid, chosen: Selections) -> None:
    wanted = analysis.goals(grid, compared(chosen))
    rates = {name: goal for (name, task), goal in wanted["rates"].items() if task == "digits"}
    assert [len(goal.differences) for goal in rates.values()] == [25, 1, 1, 6]
    # Rounds are the same as FedAvg's; the correction is for 66 comparisons of two seeds.
    assert [goal.reached for goal in rates.values()] == [True, True, False, True]
    assert [goal.clear() for goal in rates.values()] == [True, True, False, True]
    assert not any(goal.clear(66) for goal in rates.values())
    assert rates["gain"].lowest() == "+5.05 (+4.41 to +5.69)"
    assert rates["worst start"].lowest() == "+2.02 (+1.77 to +2.27), FedAdam"
    measures = [wanted["selection"][name, "fashion"] for name in selections.DECIDING]
    assert [goal.reached for goal in measures] == [True, True, False]
    assert measures[0].lowest() == "+2.03 (+1.99 to +2.07), Power-of-Choice"
    assert analysis.met(wanted["rates"]) == {
        "comparisons": 66,
        "all": 8,
        "reached": 6,
        "clearly": 6,
        "corrected": 0,
    }
    assert starts.OURS in grid["fashion"]


def test_selectors_by_hand(chosen: Selections) -> None:
    rows = compared(chosen)["fashion"]
    ours, plain = rows["hetero-select"], rows["random"]
    # 4 points in seed 0, and a hundredth of that more with every seed.
    found, error = paired(ours["last"], plain["last"]), 0.04 * math.sqrt(5 / 3) / 2
    assert found.mean == pytest.approx(4.06)
    assert found.error == pytest.approx(error)
    assert found.low == pytest.approx(4.06 - 3.182446 * error)
    assert better(ours, plain, "late_deviation").mean == pytest.approx(1.5)
    assert better(ours, plain, "worst_class").sign == 0
    table = analysis.traffic_table(rows).set_index("selector")
    assert table.loc["Oort", ["MB to clients", "diverged"]].tolist() == ["2", "0 of 4"]


def test_other_strengths_of_the_term_are_compared_by_seed(chosen: Selections) -> None:
    assert sorted({mu for task, mu, _ in chosen if task == "mnist"}) == [0, 0.01, 0.1, 0.5]
    tables = analysis.mu_tables(chosen)
    less = tables["HeteRo-Select less the others"].set_index("selector")
    assert set(less.loc["HeteRo-Select"]) == {"–"}
    # 4 points in seed 0, and a hundredth of that more with every seed; 10 mu less for all.
    assert set(less.loc["Random"]) == {"+4.06 (+3.98 to +4.14)"}


def test_the_pages_tables_by_hand(grid: Grid, chosen: Selections) -> None:
    row = analysis.rates_table(grid).set_index("25 starts").loc["FedHyper (G + SL + CL)"]
    assert row[["digits: mean", "digits: worst"]].tolist() == ["63.0 ± 0.2", "55.9"]
    rows = analysis.selectors_table(compared(chosen)).set_index("selector")
    assert rows.loc["Random", "fashion: over Random"] == ""
    assert rows.loc["HeteRo-Select", "fashion: over Random"] == "+4.06 (+3.98 to +4.14)"


def test_a_seed_counts_once_random_has_it(tmp_path: Path) -> None:
    def make(unit: Unit) -> dict | None:
        gone = (unit.settings.selector, unit.settings.seed) in {("random", 2), ("oort", 0)}
        return None if gone else of_unit(unit)

    plan = replace(SELECTION, experiments=["selection"])
    grid, found = analysis.found_in(folder_of(tmp_path, plan, make))
    rows = compared(found)["mnist"]
    assert rows["hetero-select"].index.tolist() == [0, 1, 3]
    assert rows["oort"].index.tolist() == [1, 3]
    assert grid == {}
    assert not any("term" in title for title in analysis.tables(grid, found))


def test_what_a_selection_costs_by_hand() -> None:
    costs = {"median_ms": 2.4, "first_call_ms": 10.6, "peak_mb": 300.2, "probes": 1000}
    runs = [{"selector": "A", "clients": n, "cpu_ms": n / 800, **costs} for n in (1000, 4000)]
    (row,) = scale_table({"runs": runs}).to_dict("records")
    assert list(row.values()) == ["A", "1.2", "5.0", "2", "11", "300", "1,000"]
