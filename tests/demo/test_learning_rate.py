"""The main demo on two processes, a few steps long."""

import io
import math
from pathlib import Path

import pytest

pytest.importorskip("plotly")

from rich.console import Console

from hdet.demo import learning_rate
from hdet.demo.learning_rate import LOSS, RATE, RIGHT_RATE
from hdet.demo.ranks import RankError, run_ranks
from hdet.demo.showing import DemoError, beside
from hdet.replica.explorer.config import DEFAULT
from hdet.report.files import records_in


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_six_runs_from_three_rates(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    page = learning_rate.run(console, seed=0, length=0.02, ranks=2, folder=tmp_path)
    records = records_in([tmp_path])
    assert [record.path.stem for record in records] == ["30x-too-high", "30x-too-low", "right"]
    assert all([*record.steps] == [1, 2, 3, 4, 5, 6] for record in records)
    names = [(run.method, run.start) for run in page.runs]
    starts = ("30x too low", "right", "30x too high")
    assert names == [(m, s) for s in starts for m in ("plain DDP", "Explorer")]
    for run in page.runs:
        assert run.x == [1, 2, 3, 4, 5, 6]
        assert all(math.isfinite(v) for v in run.curves[LOSS])
    low, _, right, explorer, high, _ = page.runs
    # A cosine from the start's rate, and Explorer's climb from a thousandth of it.
    assert [run.curves[RATE][0] for run in (low, right, high)] == pytest.approx(
        [RIGHT_RATE / 30, RIGHT_RATE, 30 * RIGHT_RATE]
    )
    assert right.curves[RATE][3] == pytest.approx(RIGHT_RATE / 2)
    assert explorer.curves[RATE][0] == pytest.approx(RIGHT_RATE / 1000)
    # All begin at the same weights, with the same batches.
    assert low.curves[LOSS][0] == right.curves[LOSS][0] == explorer.curves[LOSS][0]
    losses = [float(run.cells[2]) for run in page.runs]
    best = min(losses[::2])
    for run, loss in zip(page.runs, losses, strict=True):
        # The table has three digits, the comparison is of all.
        told = float(run.cells[3].removesuffix(" %"))
        assert told == pytest.approx(float(beside(loss, best).removesuffix(" %")), abs=0.25)
        assert run.cells[2] in run.sentence
        assert run.cells[3] in run.sentence
        assert run.cells[3] in page.closing
    # What is found after the last step is one step of the climb further.
    further = explorer.curves[RATE][-1] * math.exp(DEFAULT.climb_gain)
    assert float(explorer.cells[1]) == pytest.approx(further, rel=0.05)


def test_without_text_the_demo_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_rate, "STDLIB", tmp_path)
    with pytest.raises(DemoError, match="which is not in .*: use a Python that comes with it"):
        learning_rate.run(Console(file=io.StringIO()), seed=0)


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rank_that_fails_first_is_named_and_the_others_end() -> None:
    messages = run_ranks("tests.demo.failing", 2)
    assert next(messages) == "rank 0 is here"
    with pytest.raises(RankError, match=r"(?s)^\[rank 1 of 2\].*ZeroDivisionError"):
        next(messages)
