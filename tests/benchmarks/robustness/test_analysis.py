"""Regrets are those computed by hand, and what diverged is never averaged away."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.robustness.analysis import (
    cell_text,
    cells,
    percent,
    references,
    regret,
    standings,
)
from benchmarks.robustness.command import report
from benchmarks.robustness.study import Folder, Runs
from tests.benchmarks.robustness.fakes import ONE, TWO, fake_run


def put(folder: Folder, method: str, point: str, *losses: float) -> None:
    for unit in Runs(folder).units()[0]:
        if (unit.method, unit.point) == (method, point):
            run = {"lr": unit.lr, "steps": [1], "lrs": [unit.lr], "seconds": 1.0}
            folder.append(unit, {"held_out": losses[unit.seed], **run})


def test_a_regret_by_hand() -> None:
    found = regret([2.0, 2.2], 2.0, [1.9, 2.1])
    # The means: 2.1 / 2 - 1. By seed: 2.0 / 1.9 - 1 and 2.2 / 2.1 - 1.
    first, second = 100 * (2.0 / 1.9 - 1), 100 * (2.2 / 2.1 - 1)
    assert found["regret"] == pytest.approx(5.0)
    assert found["error"] == pytest.approx(abs(first - second) / 2)
    assert found["middle"] == pytest.approx((first + second) / 2)
    assert (found["diverged"], found["seeds"]) == (0, 2)
    assert math.isnan(regret([2.0], 2.0, [2.0])["error"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e308])
def test_a_diverged_seed_makes_the_mean_infinite_and_is_counted(bad: float) -> None:
    found = regret([1.01, bad, 1.03], 1.0, [1.0, 1.0, 1.0])
    assert math.isinf(found["regret"])
    assert math.isnan(found["error"])
    assert found["middle"] == pytest.approx(3.0)
    assert (found["diverged"], found["seeds"]) == (1, 3)
    assert cell_text(SimpleNamespace(**found)) == "diverged, 1 of 3, median +3.00 %"


def test_the_reference_is_the_lowest_of_sweep_and_starts(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet")
    (found,) = references(Runs(folder)).itertuples()
    # Two seeds at the bottom of the bowl: 1 and 1.01.
    assert found.loss == pytest.approx(1.005)
    assert found.by_seed == pytest.approx([1.0, 1.01])
    assert (found.best_lr, found.at_edge) == (0.1, False)
    put(folder, "ddp", "start3", 0.8, 0.9)
    put(folder, "hdet", "start3", 0.1, 0.1)
    (lower,) = references(Runs(folder)).itertuples()
    assert lower.loss == pytest.approx(0.85)
    assert lower.by_seed == [0.8, 0.9]
    assert lower.best_lr == 0.1


def test_a_loss_that_is_not_above_zero_has_no_ratio(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "hdet")
    put(folder, "ddp", "sweep+0", 0.0, 0.0)
    with pytest.raises(ValueError, match="above 0"):
        cells(Runs(folder))


def test_cells_and_standings(tmp_path: Path) -> None:
    found = cells(Runs(fake_run(tmp_path, "ddp", "hdet", "prodigy", problems=(ONE, TWO))))
    ours = found[(found["problem"] == "one") & (found["method"] == "hdet")]
    by_hand = [100 * ((0.995 + 0.01 * math.log10(x) ** 2) / 1.005 - 1) for x in ours["start"]]
    assert list(ours["regret"]) == pytest.approx(by_hand)
    table = standings(found).set_index("method")
    assert table.loc["hdet", "mean"] == pytest.approx(sum(by_hand) / 7)
    assert table.loc["hdet", "worst"] == pytest.approx(max(by_hand))
    assert (table.loc["hdet", "runs"], table.loc["hdet", "diverged"]) == (28, 0)
    assert table.loc["hdet", "within"] == 1.0
    # At 30 times the best both seeds diverge; one start of seven is within the tolerance.
    plain = table.loc["ddp"]
    assert math.isinf(plain["worst"])
    assert math.isinf(plain["mean"])
    assert plain["median"] == pytest.approx(100 * 0.1 / 1.005)
    assert (plain["worst_problem"], plain["worst_start"], plain["diverged"]) == ("one", 30, 4)
    assert plain["within"] == pytest.approx(1 / 7)
    # One run stands for all starts.
    free = found[(found["problem"] == "one") & (found["method"] == "prodigy")]
    assert (len(free), free["regret"].nunique()) == (7, 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "+0.00 %"),
        (-1.234, "-1.23 %"),
        (9.996, "+10.0 %"),
        (123.4, "+123 %"),
        (1.2e7, "+1e7 %"),
        (math.inf, "diverged"),
        (math.nan, "–"),
    ],
)
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


def test_the_report_has_every_table_and_picture(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet", problems=(ONE, TWO))
    page = report(folder).read_text()
    assert page.count("data:image/png;base64,") == 4
    assert page.count("<table>") == 3
    assert "--methods hdet,ddp --seeds 2" in page
