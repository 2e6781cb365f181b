"""Every run can be drawn, also one that made no step or came to huge numbers."""

import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")
from benchmarks.bilevel.runs.pictures import draw_pictures
from benchmarks.bilevel.runs.plots import draw_all
from benchmarks.bilevel.runs.settings import Settings
from benchmarks.bilevel.runs.tasks import TASKS
from tests.benchmarks.bilevel.runs.made_up import made_up, outcome, step


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [step(1)],
        [step(1, value=math.nan, bound=math.inf), step(2, value=1e30, length=1e-300)],
        [step(k, length=math.nan, norm=math.nan) for k in (1, 2)],
        [step(k, value=-1.0 * k, error_bound=0.1, norm=0.0) for k in range(1, 60)],
    ],
    ids=["none", "one", "huge", "no hypergradient", "below zero"],
)
def test_any_run_is_drawn(tmp_path: Path, steps: list) -> None:
    end = outcome(before={"loss": 20.0}, after={"loss": 20.0 if not steps else 2.0})
    drawn = draw_all(made_up(tmp_path, steps, end=end), end)
    assert list(drawn) == ["descent", "working"]
    for file in drawn.values():
        assert file.parent == tmp_path / "plots"
        assert file.stat().st_size > 5000


@pytest.mark.parametrize(
    ("name", "expected"),
    [("logistic", ["penalties"]), ("tv", ["images"]), ("foe", ["images", "filters"])],
)
def test_what_was_learned_is_shown(name: str, expected: list[str]) -> None:
    # Unchanged penalties have no range of their own.
    drawn = draw_pictures(Settings(name), TASKS[name](0).theta0)
    assert list(drawn) == expected
    for figure in drawn.values():
        figure.canvas.draw()


def test_images_say_how_good_they_are() -> None:
    task = TASKS["tv"](0)
    learned = {"weight": torch.tensor(-1.5), "smoothing": torch.tensor(-5.0)}
    learned = {key: value.double() for key, value in learned.items()}
    figure = draw_pictures(Settings("tv"), learned)["images"]
    clean, noisy, before, after = (ax.get_title("center") for ax in figure.axes[:4])
    assert clean == "clean"
    decibels = [float(title.split(", ")[-1].split()[0]) for title in (noisy, before, after)]
    assert decibels[0] == pytest.approx(20, abs=1)
    assert decibels[0] < decibels[1] < decibels[2]
    assert len(figure.axes) == 16
    assert task.images is not None
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    assert torch.equal(torch.as_tensor(shown.data), task.images.clean[0])
