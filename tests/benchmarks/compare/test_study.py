"""What is planned, in which order, and what is left to do."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import study as compare
from benchmarks.compare.configurations import CHECKPOINT
from benchmarks.compare.records import Result, RunFolder, Settings
from benchmarks.compare.study import plan, unfinished, units
from benchmarks.core.files import write_json


def planned(**changes: Any) -> Settings:
    asked = {
        "task": "digits",
        "replicas": 2,
        "steps": 20,
        "seeds": 2,
        "only": "",
        "data": None,
        "sync_every": 5,
        "spread": 1 / 9,
        "loss_scale": 0.1,
    }
    return plan(**{**asked, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "nosuch"}, "no task 'nosuch'"),
        ({"only": "nosuch,hdet-full"}, "--only: there is no nosuch: .*ddp-mid-1"),
        ({"replicas": 1}, "at least 2"),
        ({"spread": 0.0}, "--spread 0 "),
        ({"loss_scale": 0.0}, "--loss-scale 0 "),
        ({"steps": 20, "sync_every": 20}, "--sync-every 20 "),
        ({"data": "/nowhere"}, "takes no data"),
    ],
)
def test_what_cannot_be_is_said(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        planned(**changes)


@pytest.mark.parametrize(
    ("only", "most"), [("baseline-low", 50), ("baseline-low, hdet-full", 33)]
)
def test_a_stream_that_is_too_short_tells_how_long_a_run_may_be(
    only: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*args: Any, real: Callable = compare.get_task) -> Any:
        task = real(*args)
        task.max_steps = lambda world_size: 50
        return task

    monkeypatch.setattr(compare, "get_task", short)
    with pytest.raises(ValueError, match=f"give at most {most}\\."):
        planned(steps=most + 1, only=only)
    assert planned(steps=most, only=only).steps == most


def test_a_checkpoint_comes_before_who_starts_from_it_in_every_seed() -> None:
    settings = planned(only="baseline-low,hdet-full")
    assert [(row.name, seed) for row, seed in units(settings)] == [
        (name, seed) for seed in (0, 1) for name in (CHECKPOINT, "baseline-low", "hdet-full")
    ]
    assert settings.warm_steps == 10
    settings = planned(only="baseline-low,hdet-no-warm-start", steps=100)
    assert CHECKPOINT not in {row.name for row, _ in units(settings)}
    # The controller takes over at a sync after three tenths.
    assert (settings.warm_steps, settings.auto_lr_after) == (0, 30)


def test_what_has_a_result_is_not_done_again(tmp_path: Path) -> None:
    settings = planned(only="baseline-low,ddp-tenth")
    folder = RunFolder(tmp_path)
    folder.create(settings)
    assert unfinished(folder) == units(settings)
    result = asdict(Result(1.0, 1.0, False, 1e-3, 1e-4, 2.0, 0.1))
    write_json(folder.run("ddp-tenth", 0) / "result.json", result)
    (folder.run("baseline-low", 1)).mkdir(parents=True)
    (folder.run("baseline-low", 1) / "metrics.jsonl").write_text("{}\n")
    left = [(row.name, seed) for row, seed in unfinished(folder)]
    assert left == [("baseline-low", 0), ("baseline-low", 1), ("ddp-tenth", 1)]


@pytest.mark.parametrize("loss", [0.0012, 1.91, 99.99996, 4e12, float("nan")])
def test_a_finished_run_fits_into_80_columns(loss: float) -> None:
    result = Result(loss, loss, True, 1e-3, 1e-4, 1234.5, 0.1)
    assert len(compare._line("auto-lr-from-tenth, seed 10", result)) <= 80
