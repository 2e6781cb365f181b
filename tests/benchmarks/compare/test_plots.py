"""The pictures exist, show something, and survive what training does to numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks.compare import axes, curves
from benchmarks.compare.plots import draw_all
from benchmarks.compare.records import RunFolder
from tests.benchmarks.compare.fake_run import LOSSES, ROWS, STEPS, SYNC, fake_run

NAMES = {"loss_curves", "learning_rates", "controller", "base_lr", "final_losses"}


def assert_picture(file: Path) -> None:
    pixels = imread(file)
    assert pixels.shape[1] == 1350
    assert 0.01 < (pixels[..., :3] < 0.9).any(axis=2).mean() < 0.9


def test_all_pictures_are_drawn_and_not_blank(tmp_path: Path) -> None:
    drawn = draw_all(fake_run(tmp_path / "run"))
    assert set(drawn) == NAMES
    for name, file in drawn.items():
        assert file == tmp_path / "run" / "plots" / f"{name}.png"
        assert_picture(file)
    assert {file.suffix for file in (tmp_path / "run" / "plots").iterdir()} == {".png"}


def test_a_run_that_has_just_begun_is_drawn_without_results(tmp_path: Path) -> None:
    losses: dict[str, list[float | None]]
    losses = {"hdet-full": [None, None], "ddp-mid-1": [None, None]}
    folder = fake_run(tmp_path, losses, steps=60, auto_lr_after=1000)
    drawn = draw_all(folder)
    assert set(drawn) == NAMES - {"final_losses"}
    for file in drawn.values():
        assert_picture(file)


def test_without_any_spread_there_is_no_exploration_to_draw(tmp_path: Path) -> None:
    losses = {name: LOSSES[name] for name in ("baseline-low", "ddp-mid-2")}
    drawn = draw_all(fake_run(tmp_path, losses))
    assert set(drawn) == NAMES - {"learning_rates", "controller"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38, None])
def test_no_loss_breaks_a_picture(tmp_path: Path, value: float | None) -> None:
    folder = fake_run(tmp_path, {"hdet-full": [3.3, 3.4]}, steps=40, auto_lr_after=20)
    for seed in (0, 1):
        run = folder.run("hdet-full", seed)
        lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().split("\n")[:-1]]
        for line in lines[15:]:
            line["losses"] = [value] * 8
        (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        result = json.loads((run / "result.json").read_text())
        result |= {"train_loss": value, "diverged": True}
        (run / "result.json").write_text(json.dumps(result))
    assert set(draw_all(folder)) == NAMES


def test_drawing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, {"hdet-full": [3.3, 3.4]}, steps=40, auto_lr_after=20)
    first = {name: file.read_bytes() for name, file in draw_all(folder).items()}
    assert first == {name: file.read_bytes() for name, file in draw_all(folder).items()}


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run folder"):
        draw_all(RunFolder(tmp_path))


def test_a_comparison_that_has_not_begun_is_refused(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "other", {})
    with pytest.raises(ValueError, match="has no run in it yet"):
        draw_all(folder)


def test_a_torn_last_line_ends_the_curve_before_it(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, {"ddp-mid-2": [None, None]})
    (curve,) = curves.read_curves(folder, folder.settings())
    assert len(curve.loss) == STEPS * 2 // 5 - 1
    assert curve.seeds == 2


def test_smoothing_is_a_trailing_mean_that_huge_and_missing_losses_leave() -> None:
    line = np.array([1.0, 3.0, np.nan, 5.0, 1e38, 2.0, 4.0])
    expected = [1.0, 2.0, np.nan, 5.0, 5e37, 5e37, 3.0]
    np.testing.assert_allclose(curves.trailing_mean(line, 2), expected)


def test_seeds_are_averaged_as_far_as_they_go() -> None:
    lines = [np.array([1.0, 2.0, 4.0]), np.array([3.0, np.nan])]
    mean, error = curves.over_seeds(lines)
    np.testing.assert_allclose(mean, [2.0, np.nan, 4.0])
    np.testing.assert_allclose(error[0], 1.0)


def test_the_exploration_is_that_of_the_file(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, {"hdet-full": [3.3, 3.4]}, steps=60, auto_lr_after=30)
    shown = curves.read_exploration(folder, folder.settings())
    assert shown is not None
    assert shown.base.shape == (60, 4)
    assert shown.rates.shape == (60, 4, 8)
    np.testing.assert_array_equal(shown.steps, np.arange(1, 61))
    np.testing.assert_array_equal(shown.syncs, np.arange(SYNC, 61, SYNC))
    np.testing.assert_allclose(shown.gaps.sum(axis=1), 0, atol=1e-12)
    # The controller's first act is at step 30, the third sync.
    assert np.isnan(shown.weights[:2]).all()
    assert np.isnan(shown.pulls[:2]).all()
    np.testing.assert_allclose(shown.weights[2:].sum(axis=1), 1)
    sync = next(x for x in folder.lines("hdet-full", 0, "sync") if x["step"] == 30)
    expected = 100 * np.array(sync["delta"]) / shown.base[29]
    np.testing.assert_allclose(shown.pulls[2], expected)


def test_a_sync_without_any_finite_loss_has_no_gaps(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, {"hdet-full": [float("nan"), 3.4]})
    shown = curves.read_exploration(folder, folder.settings())
    assert shown is not None
    assert np.isfinite(shown.gaps[0]).all()
    assert np.isnan(shown.gaps[-1]).all()


def test_curves_that_never_were_finite_have_a_range() -> None:
    assert axes.loss_range([np.full(5, np.nan)]) == (0.0, 1.0)
    assert axes.dot_range(np.full(2, np.nan)) == (0.0, 1.0)
    assert axes.rate_range([np.full(5, np.nan)]) == (0.1, 1.0)


def test_the_fall_at_the_end_of_one_cycle_does_not_set_the_range() -> None:
    rates = np.full(100, 1e-2)
    rates[-1] = 1e-9
    assert axes.rate_range([rates]) == (5e-3, 2e-2)


def test_a_diverged_run_does_not_set_the_range() -> None:
    learns = np.linspace(5.0, 3.0, 100)
    low, high = axes.loss_range([learns, np.linspace(5.0, 900.0, 100)])
    assert 2.4 < low < 3.0
    assert 4.6 < high < 5.0


def test_far_off_final_losses_do_not_squash_the_others() -> None:
    low, high = axes.dot_range(np.array([3.27, 3.28, 3.29, 3.30, 3.31, 42.0, np.nan]))
    assert low < 3.27
    assert 3.31 < high < 3.4


def test_rows_keep_their_colours_and_kinds_apart() -> None:
    looks = axes.looks(ROWS)
    assert len({look["color"] for look in looks.values()}) == len(ROWS)
    assert {looks[row.name]["ls"] == "-" for row in ROWS if row.role == "paper"} == {True}
    assert {looks[row.name]["ls"] == "-" for row in ROWS if row.role != "paper"} == {False}
