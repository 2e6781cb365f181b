"""The pictures show every method, and mark what diverged or lies beyond the axis."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.robustness import figures
from benchmarks.robustness.figures import draw_all, look, place
from benchmarks.robustness.methods import LABELS
from benchmarks.robustness.regret import Cell, Row, rows, standings
from benchmarks.robustness.units import Folder
from tests.benchmarks.robustness.fakes import ONE, TWO, fake_run, settings


def test_every_picture_is_drawn(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, problems=(ONE, TWO))
    drawn = draw_all(folder)
    assert list(drawn) == ["summary", "regret-one", "regret-two", "learning-rates"]
    for file in drawn.values():
        assert file.read_bytes().startswith(b"\x89PNG")


def test_without_ours_there_are_no_trajectories(tmp_path: Path) -> None:
    assert list(draw_all(fake_run(tmp_path, "ddp"))) == ["summary", "regret-one"]


def test_what_has_not_begun_gives_no_picture(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.create(settings("hdet"))
    assert draw_all(folder) == {}


def test_a_regret_is_drawn_in_place_or_at_a_named_end() -> None:
    assert place(5.0) == 5.0
    assert place(1e9) < place(math.inf)
    assert place(1e9) > 100
    assert place(-80.0) == -30.0


def test_methods_differ_in_more_than_colour() -> None:
    looks = [look(name) for name in LABELS]
    assert len({one["color"] for one in looks}) == len(looks)
    assert len({one["marker"] for one in looks}) == len(looks)
    assert max(looks, key=lambda one: one["lw"]) == look("hdet")


def test_a_diverged_start_has_a_cross(tmp_path: Path) -> None:
    mine = rows(fake_run(tmp_path, "ddp", "hdet"))
    ax = figures._regret(ONE, mine).axes[0]
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    marked = [y for line in crosses for y in np.asarray(line.get_ydata())]
    assert marked == [place(math.inf)]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["hdet", "plain DDP"]


@pytest.mark.parametrize("regret", [-50.0, 0.0, 1e12, math.inf])
def test_any_regret_lies_within_the_axis(regret: float) -> None:
    diverged = int(math.isinf(regret))
    cells = [Cell(start, regret, 0.5, regret, diverged, 1) for start in (0.1, 1.0, 10.0)]
    row = Row("one", "hdet", "hdet", cells, regret, regret, regret, 3 * diverged, 3)
    low, high = figures._regret(ONE, [row]).axes[0].get_ylim()
    assert low < place(regret) < high
    low, high = figures._summary(standings([row])).axes[0].get_xlim()
    assert low < place(regret) < high
