"""The GPU script goes on where it was cut off, within its time, and never mixes two records."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer import BadParameter

from benchmarks import gpt_cuda
from benchmarks.gpt_cuda import PROBLEM, STARTS, SWEEP, best_of, main

RATES = [f"sweep {PROBLEM.centre * factor:.3g}" for factor in SWEEP]
LOSSES = dict(zip(RATES, [3.0, 2.0, 1.0, None, 4.0], strict=True))


def run_of(loss: float | None) -> dict[str, Any]:
    return {"held out": loss, "rate": 1e-3, "seconds": 1.0}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every run be done at once; give the names of those that were done."""
    names: list[str] = []

    def fake(part: str, *about: object) -> Any:
        def done(name: str) -> Callable[[], dict[str, Any]]:
            return lambda: names.append(name) or run_of(LOSSES.get(name, 1.5))

        listed = (
            list(LOSSES) if part == "sweep" else [f"{part} {start:.3g}" for start in STARTS]
        )
        return [(name, done(name)) for name in listed]

    monkeypatch.setattr(gpt_cuda, "runs", fake)
    return names


def call(out: Path, parts: str = "sweep,peers,explorer", limit: float = 100.0) -> None:
    main(out, limit, parts, smoke=True)


def test_the_best_rate_is_that_of_a_whole_sweep() -> None:
    done = {name: run_of(loss) for name, loss in LOSSES.items()}
    assert best_of(done, PROBLEM) == pytest.approx(PROBLEM.centre)
    done.popitem()
    assert best_of(done, PROBLEM) is None


def test_what_is_done_is_not_done_again(tmp_path: Path, ran: list[str]) -> None:
    out = tmp_path / "record.json"
    call(out, parts="sweep")
    assert ran == RATES
    call(out)
    assert len(ran) == len(set(ran)) == len(SWEEP) + 2 * len(STARTS)
    assert list(json.loads(out.read_text())["runs"]) == ran


def test_no_part_begins_without_the_whole_sweep_or_without_time(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call(tmp_path / "1.json", parts="explorer")
    assert "explorer: needs the whole sweep" in capsys.readouterr().out
    call(tmp_path / "2.json", limit=0.0)
    assert "no time left; the same command goes on" in capsys.readouterr().out
    assert not ran


def test_a_record_of_something_else_is_refused(tmp_path: Path, ran: list[str]) -> None:
    out = tmp_path / "record.json"
    call(out, parts="sweep")
    record = json.loads(out.read_text())
    out.write_text(json.dumps({**record, "steps": 3}))
    with pytest.raises(BadParameter, match="another steps"):
        call(out)
    with pytest.raises(BadParameter, match="nosuch"):
        call(out, parts="nosuch")


def test_a_diverged_run_has_an_infinite_regret(capsys: pytest.CaptureFixture[str]) -> None:
    gpt_cuda.show({"sweep 1": run_of(1.0), "sweep 2": run_of(math.nan)})
    assert "+inf" in capsys.readouterr().out


def test_the_batches_of_all_ranks_are_one_step() -> None:
    task = gpt_cuda.CudaGPT(smoke=True)
    parts = [task.batch(0, 3, rank, 4)[0] for rank in range(4)]
    assert torch.cat(parts).shape == (8, 16)
    assert len(torch.cat(parts).unique(dim=0)) > 4
