"""Regrets are those computed by hand, and what diverged is never averaged away."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.robustness import analysis
from benchmarks.robustness.analysis import (
    cell,
    cell_text,
    cells,
    compute,
    percent,
    references,
    standings,
)
from benchmarks.robustness.command import report
from benchmarks.robustness.runs import Folder, Runs
from tests.benchmarks.robustness import fakes
from tests.benchmarks.robustness.fakes import INITIAL, ONE, TWO, fake_run


def put(folder: Folder, method: str, point: str, *losses: float) -> None:
    for unit in Runs(folder).units()[0]:
        if (unit.method, unit.point) == (method, point):
            run = fakes.outcome(unit.problem, losses[unit.seed], unit.lr, unit.lr)
            folder.append(unit, {"lr": unit.lr, **vars(run)})


def row(*losses: float) -> list[dict[str, Any]]:
    return [vars(fakes.outcome(ONE, loss, 0.1, 0.1)) for loss in losses]


def against(loss: float, *by_seed: float, noise: float = 0.0) -> dict[str, Any]:
    return {"loss": loss, "by_seed": by_seed, "noise": noise}


def test_a_regret_by_hand() -> None:
    found = cell(row(1.0, 1.1), against(1.0, 0.9, 1.05))
    # The means: 1.05 / 1 - 1. By seed: 1.0 / 0.9 - 1 and 1.1 / 1.05 - 1.
    first, second = 100 * (1.0 / 0.9 - 1), 100 * (1.1 / 1.05 - 1)
    assert found["regret"] == pytest.approx(5.0)
    assert found["error"] == pytest.approx(abs(first - second) / 2)
    assert (found["diverged"], found["seeds"]) == (0, 2)
    assert math.isnan(cell(row(1.0), against(1.0, 1.0))["error"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e308, INITIAL])
def test_a_diverged_seed_counts_as_its_initial_loss(bad: float) -> None:
    found = cell(row(1.0, bad, 1.0), against(1.0, 1.0, 1.0, 1.0))
    assert found["regret"] == pytest.approx(100 * ((2 + INITIAL) / 3 - 1))
    assert math.isinf(found["compute"])
    assert (found["diverged"], found["seeds"]) == (1, 3)
    assert cell_text(SimpleNamespace(**found)) == "+33.3 ± 33.3 %, 1 of 3 diverged"


def test_compute_to_target_by_hand() -> None:
    # A line from 2 to 1 over 40 steps is at 1.25 after 30.
    assert compute(row(1.0), 1.25, math.nan) == pytest.approx(30 / 40)
    # 4 % of noise: 1.3 after 28.
    assert compute(row(1.0), 1.25, 4.0) == pytest.approx(28 / 40)
    assert compute(row(0.9, 1.1), 1.25, 0.0) == pytest.approx(30 / 40)
    assert compute(row(1.3), 1.25, 0.0) == math.inf
    assert compute(row(1.3), 1.25, 4.0) == pytest.approx(1)
    # Thirty forward passes are ten steps.
    extra = [{**run, "forwards": 30.0} for run in row(1.0)]
    assert compute(extra, 1.25, 0.0) == pytest.approx(1.0)
    assert compute(row(1.0), INITIAL, 0.0) == 0


def test_the_reference_is_the_lowest_of_sweep_and_starts(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet")
    (found,) = references(Runs(folder)).itertuples()
    # Two seeds at the bottom of the bowl: 1 and 1.01.
    assert found.loss == pytest.approx(1.005)
    assert found.by_seed == pytest.approx([1.0, 1.01])
    assert (found.best_lr, found.at_edge) == (0.1, False)
    # The fakes' other batches move the loss by half a percent.
    assert found.noise == pytest.approx(0.5)
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
    # Half a percent of noise lets all but the two outermost starts reach the target.
    assert table.loc["hdet", "in_budget"] == pytest.approx(5 / 7)
    # At 30 times the best both seeds diverge; one start of seven is within the tolerance.
    plain = table.loc["ddp"]
    assert plain["worst"] == pytest.approx(100 * (INITIAL / 1.005 - 1))
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
        (math.nan, "–"),
    ],
)
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


def test_the_report_has_every_table_and_picture(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet", problems=(ONE, TWO))
    text = report(folder).read_text()
    assert text.count("data:image/png;base64,") == 2
    # Two of all problems and of the confirmation ones, the noise, and each problem's.
    assert text.count("<table>") == 5
    assert "--methods hdet,ddp --seeds 2" in text


def test_the_pages_values_can_be_made_of_a_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake_run(tmp_path / "robustness", "ddp", "hdet", problems=(ONE, TWO))
    report(folder)
    monkeypatch.setattr(analysis, "RECORDS", tmp_path)
    values = analysis.values()
    assert values["config"]["methods"] == ["hdet", "ddp"]
    rows = values["problems"].to_dict("records")
    assert [(row["problem"], row["split"]) for row in rows] == [
        ("one", "tuning"),
        ("two", "confirmation"),
    ]
    assert (rows[1]["noise"], rows[1]["plain DDP"]) == (
        "0.50 %",
        percent(100 * (INITIAL / 1.005 - 1)),
    )
    assert list(values["summary"]["method"]) == ["hdet", "plain DDP"]
    assert "confirmation" in values["summary"]
    assert values["lower"]["worst"] == []
    assert values["fewer"] is None


def test_methods_that_have_run_with_fewer_seeds_have_a_table_of_their_own(
    tmp_path: Path,
) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet", problems=(ONE, TWO))
    report(folder)
    config, versions, found = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("config", "environment", "summary")
    )
    for one in found["rows"]:
        for start in one["cells"] if one["method"] == "ddp" else ():
            start["seeds"] = 1
    values = analysis.page_values(config, versions, found)
    assert list(values["summary"]["method"]) == ["hdet"]
    assert list(values["fewer"]["method"]) == ["plain DDP"]
    assert values["lower"]["mean"] == []
