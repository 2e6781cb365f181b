"""Regrets are those computed by hand, and what diverged is never averaged away."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.robustness.problems import Outcome
from benchmarks.robustness.regret import (
    Cell,
    Reference,
    Row,
    Standing,
    cell,
    reference,
    rows,
    standings,
)
from benchmarks.robustness.units import Folder, units
from benchmarks.robustness.words import cell_text, percent, verdicts
from tests.benchmarks.robustness.fakes import ONE, TWO, fake_run

AGAINST = Reference("one", 0.1, 2.0, [1.9, 2.1], False, {})


def put(folder: Folder, method: str, place: str, *losses: float) -> None:
    for unit in units(folder)[0]:
        if (unit.method, unit.place) == (method, place):
            folder.write(unit, Outcome(losses[unit.seed], [1], [unit.lr], 1.0))


def test_a_cell_by_hand() -> None:
    found = cell(3.0, [2.0, 2.2], AGAINST)
    # The means: 2.1 / 2 - 1. By seed: 2.0 / 1.9 - 1 and 2.2 / 2.1 - 1.
    first, second = 100 * (2.0 / 1.9 - 1), 100 * (2.2 / 2.1 - 1)
    assert found.regret == pytest.approx(5.0)
    assert found.error == pytest.approx(abs(first - second) / 2)
    assert found.middle == pytest.approx((first + second) / 2)
    assert (found.start, found.diverged, found.seeds) == (3.0, 0, 2)


def test_one_seed_has_no_error() -> None:
    assert math.isnan(cell(1.0, [2.0], replace(AGAINST, by_seed=[2.0])).error)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e308])
def test_a_diverged_seed_makes_the_mean_infinite_and_is_counted(bad: float) -> None:
    against = replace(AGAINST, by_seed=[1.0, 1.0, 1.0], loss=1.0)
    found = cell(1.0, [1.01, bad, 1.03], against)
    assert math.isinf(found.regret)
    assert math.isnan(found.error)
    assert found.middle == pytest.approx(3.0)
    assert (found.diverged, found.seeds) == (1, 3)
    assert cell_text(found) == "diverged, 1 of 3, median +3.00 %"


def test_the_reference_is_the_lowest_of_sweep_and_starts(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet")
    found = reference(folder, ONE)
    assert found is not None
    # Two seeds at the bottom of the bowl: 1 and 1.01.
    assert found.loss == pytest.approx(1.005)
    assert found.by_seed == pytest.approx([1.0, 1.01])
    assert (found.best_lr, found.at_edge) == (0.1, False)
    # The fakes diverge a decade and a half above.
    assert math.isinf(found.sweep[0.1 * 10**1.5])
    put(folder, "ddp", "start3", 0.8, 0.9)
    put(folder, "hdet", "start3", 0.1, 0.1)
    lower = reference(folder, ONE)
    assert lower is not None
    assert lower.loss == pytest.approx(0.85)
    assert lower.by_seed == [0.8, 0.9]
    assert lower.best_lr == 0.1


def test_a_loss_that_is_not_above_zero_has_no_ratio(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "hdet")
    put(folder, "ddp", "sweep+0", 0.0, 0.0)
    with pytest.raises(ValueError, match="above 0"):
        rows(folder)


def test_rows_over_starts(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet", "prodigy")
    ours, plain, free = rows(folder)
    assert (ours.method, plain.method, free.method) == ("hdet", "ddp", "prodigy")
    away = [math.log10(c.start) for c in ours.cells]
    by_hand = [100 * ((0.995 + 0.01 * x**2) / 1.005 - 1) for x in away]
    assert [c.regret for c in ours.cells] == pytest.approx(by_hand)
    assert ours.mean == pytest.approx(sum(by_hand) / 7)
    assert ours.worst == pytest.approx(max(by_hand))
    assert (ours.diverged, ours.runs) == (0, 14)
    assert plain.cells[3].regret == pytest.approx(0)
    assert plain.cells[3].error == pytest.approx(0)
    # At 30 times the best both seeds diverge.
    assert math.isinf(plain.worst)
    assert math.isinf(plain.mean)
    assert plain.median == pytest.approx(100 * 0.1 / 1.005)
    assert (plain.diverged, plain.runs) == (2, 14)
    # One run stands for all starts.
    assert len(free.cells) == 7
    assert len({c.regret for c in free.cells}) == 1


def test_standings_over_problems(tmp_path: Path) -> None:
    found = rows(fake_run(tmp_path, "ddp", "hdet", problems=(ONE, TWO)))
    ours, plain = standings(found)
    regrets = [c.regret for row in found if row.method == "hdet" for c in row.cells]
    assert (ours.problems, ours.runs, ours.diverged) == (2, 28, 0)
    assert ours.mean == pytest.approx(sum(regrets) / 14)
    assert ours.worst == max(regrets)
    assert ours.within == 1.0
    assert set(ours.at_best) == {"one", "two"}
    # One start of seven lies within the tolerance.
    assert plain.within == pytest.approx(1 / 7)
    assert plain.diverged == 4
    assert plain.worst_at == ("one", 30.0)


def test_what_has_not_run_is_left_out(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet")
    folder.file("one", "hdet", "start1-30", 0).unlink()
    ours, _ = rows(folder)
    assert [c.start for c in ours.cells][0] == pytest.approx(0.1)
    assert len(ours.cells) == 6
    folder.file("one", "ddp", "sweep-3", 0).unlink()
    assert rows(folder) == []


def standing(method: str, mean: float, worst: float, best: float = -1.0) -> Standing:
    row = Row("p", method, method, [Cell(1.0, best, 0.1, best, 0, 3)], mean, mean, worst, 0, 3)
    return replace(standings([row])[0], mean=mean, worst=worst)


def reached(*found: Standing) -> list[bool]:
    return [bool(one["reached"]) for one in verdicts(found)]


def test_what_is_wanted_is_reached_or_not() -> None:
    peer = standing("prodigy", 1.0, 5.0)
    assert reached(standing("hdet", -0.5, 1.5), peer) == [True] * 4
    assert reached(standing("hdet", 0.5, 2.5, 0.1), peer) == [False, False, False, True]
    assert reached(standing("hdet", -0.5, 6.0), peer) == [True, False, True, False]
    # Two that diverge: neither beats the other.
    lost = [standing("hdet", math.inf, math.inf), standing("ddp", math.inf, math.inf)]
    assert reached(*lost)[3] is False
    assert verdicts([peer]) == []


def test_a_verdict_names_who_was_not_beaten() -> None:
    found = [standing("hdet", 1.0, 6.0), standing("prodigy", 1, 5), standing("pbt", 1, 7)]
    said = str(verdicts(found)[3]["measured"])
    assert said == "+6.00 %; not below prodigy (+5.00 %)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "+0.00 %"),
        (-1.234, "-1.23 %"),
        (9.996, "+10.0 %"),
        (123.4, "+123 %"),
        (1.2e7, "+1e7 %"),
        (math.inf, "diverged"),
        (None, "diverged"),
        (math.nan, "–"),
    ],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_text_of_a_cell() -> None:
    assert cell_text(Cell(1.0, 1.5, 0.25, 1.5, 0, 3)) == "+1.50 ± 0.25 %"
    assert cell_text(Cell(1.0, 1.5, math.nan, 1.5, 0, 1)) == "+1.50 %"
    assert cell_text(Cell(1.0, math.inf, math.nan, math.inf, 3, 3)) == "diverged, 3 of 3"
