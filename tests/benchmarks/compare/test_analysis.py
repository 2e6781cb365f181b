"""The numbers of a comparison are those of its runs."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.compare.analysis import compare, missing, summarise, table
from benchmarks.compare.command import report
from benchmarks.compare.records import RunFolder
from tests.benchmarks.compare.fake_run import ROWS, fake_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fake_run(tmp_path_factory.mktemp("run"))


def test_rows_are_computed_as_by_hand(folder: RunFolder) -> None:
    rows = {row["name"]: SimpleNamespace(**row) for row in summarise(folder)}
    assert list(rows) == [row.name for row in ROWS]
    low = rows["baseline-low"]
    # Two values: their standard error is half their distance.
    assert (low.train_loss, low.train_error) == pytest.approx((3.296, 0.002))
    assert (low.held_out_loss, low.held_out_error) == pytest.approx((3.396, 0.002))
    assert (low.seeds, low.diverged, low.seconds) == (2, 0, 12.5)
    assert (low.mean_lr, low.final_lr) == pytest.approx((0.005, 2.5e-5))
    assert rows["hdet-full"].sync_share == pytest.approx(0.03)
    assert rows["warm-init"].diverged == 2
    assert math.isnan(rows["warm-init"].train_loss)
    assert (rows["ddp-mid-2"].seeds, rows["ddp-mid-2"].train_loss) == (1, 3.3)
    assert math.isnan(rows["ddp-mid-2"].train_error)


def test_two_rows_are_compared_over_their_common_seeds() -> None:
    first = {"0": 3.0, "1": 5.0, "3": 9.0}
    seen = compare(first, {"0": 3.3, "1": 5.1, "2": 1.0})
    # -0.3 and -0.1: their standard error is half their distance.
    assert (seen.mean, seen.error, seen.n) == pytest.approx((-0.2, 0.1, 2))
    assert math.isnan(compare(first, {"2": 1.0}).mean)


def test_the_table_has_the_papers_numbers_beside_ours(folder: RunFolder) -> None:
    lines = table(summarise(folder), paper=True).set_index("configuration")
    full = lines.loc["HDET (full)"]
    assert full["train loss"] == "3.2780 ± 0.0010"
    assert (full["paper: mean LR"], full["paper: train loss"]) == ("0.0009", "3.277")
    assert lines.loc["DDP at 2.1x low", "paper: train loss"] == ""


def test_the_report_stands_alone_and_its_summary_is_strict_json(folder: RunFolder) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    page = report(folder).read_text()
    assert "Runs without a result: 1." in page
    assert "Averaging, &lt;b&gt;no&lt;/b&gt; spread" in page
    assert page.count("data:image/png;base64,") == 5
    assert "<script src" not in page
    assert "Content-Security-Policy" in page
    drawn = json.loads(page.split('id="data">')[1].split("</script>")[0])["runs"]
    assert [run["name"] for run in drawn][:2] == ["Baseline-Low", "Baseline-High"]
    assert all(len(run["curves"]) == 2 for run in drawn)
    assert str(folder.path) not in page
    content = json.loads((folder.path / "summary.json").read_text(), parse_constant=refuse)
    assert content["rows"][2]["train_loss"] is None
    assert content["missing"] == missing(folder) == ["DDP at 4.3x low, seed 1"]


def test_what_a_run_has_left_so_far_is_drawn(tmp_path: Path) -> None:
    page = report(fake_run(tmp_path, {"hdet-full": [None, None]})).read_text()
    assert page.count("data:image/png;base64,") == 4
