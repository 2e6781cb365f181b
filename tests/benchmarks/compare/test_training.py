"""A run that was stopped and killed is, in the end, one that never was."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.checkpoints import interval
from benchmarks.compare.records import RunFolder, Settings
from benchmarks.compare.run_log import unlearned
from benchmarks.compare.study import plan, run_all
from benchmarks.core.ranks import on_ranks
from tests.interrupted import signalled, started, wait_for

# With two ranks a sum is the same in any order, and hides how DDP lays out its buckets.
RANKS, STEPS = 3, 40
# Behind the checkpoint after 10 steps, and the lines of 15.
HELD = 18


@pytest.mark.parametrize(
    ("steps", "sync_every", "every"), [(250, 5, 60), (20, 5, 5), (10, 5, 5), (10, 20, 20)]
)
def test_checkpoints_come_at_syncs_about_four_times_a_run(
    steps: int, sync_every: int, every: int
) -> None:
    assert interval(steps, sync_every) == every


def metrics(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    """Return the whole lines of a run."""
    file = folder.run(name, 0) / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def interrupted(folder: RunFolder, name: str, what: signal.Signals) -> tuple[int, str]:
    """Go on with a folder, send a signal to all its processes in a run; return how it ended.

    The run waits for it at a step behind its first checkpoint, and cannot end before.
    """
    held = folder.path.parent / what.name
    held.mkdir()
    command = ["-m", "tests.benchmarks.compare.held_compare", "compare", "--resume"]
    command.append(str(folder.path))
    with started(*command, HELD_AT=f"{name}:{HELD}", HELD=str(held)) as process:
        for rank in range(RANKS):
            wait_for(held / str(rank), process)
        output = signalled(process, what)
        return process.returncode, output


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "sync_ms"} for line in lines]


def planned() -> Settings:
    return plan(
        task="digits",
        replicas=RANKS,
        steps=STEPS,
        seeds=1,
        only="warm-init,hdet-full",
        data=None,
        sync_every=5,
        spread=1 / 9,
        loss_scale=0.1,
    )


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stopped_then_killed_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    folder, whole = RunFolder(tmp_path / "cut"), RunFolder(tmp_path / "whole")
    folder.create(planned())

    # Replicas that are never averaged, stopped by Ctrl-C.
    code, output = interrupted(folder, "warm-init", signal.SIGINT)
    assert code == 130
    assert output.endswith(
        f"\nStopped.\nGo on with: python -m benchmarks compare --resume {folder.path}\n"
    )
    assert "Traceback" not in output

    # Spread, averaging and auto-LR, killed without warning.
    assert interrupted(folder, "hdet-full", signal.SIGKILL)[0] == -signal.SIGKILL
    unit = folder.run("hdet-full", 0)
    step = json.loads((unit / "checkpoint.json").read_text())["step"]
    assert 0 < step < HELD
    kept = [line for line in metrics(folder, "hdet-full") if line["step"] <= step]
    # What was written behind the checkpoint, the last line of it torn.
    assert len(metrics(folder, "hdet-full")) > len(kept)
    with (unit / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')

    on_ranks(run_all, RANKS, str(folder.path), planned())
    whole.create(planned())
    on_ranks(run_all, RANKS, str(whole.path), planned())
    for name in ("warm-init", "hdet-full"):
        cut, expected = vars(folder.result(name, 0)), vars(whole.result(name, 0))
        times = ("seconds", "sync_share")
        assert [cut[k] == expected[k] or k in times for k in cut] == [True] * len(cut)
        lines = metrics(folder, name)
        assert without_times(lines) == without_times(metrics(whole, name))
        assert [f for f in folder.run(name, 0).iterdir() if "checkpoint" in f.name] == []
    # Its times show that the first part was not run again.
    assert metrics(folder, "hdet-full")[: len(kept)] == kept


def test_a_run_diverges_that_is_not_finite_or_ends_above_its_beginning():
    falling = [3.0 - 0.01 * k for k in range(100)]
    assert not unlearned(falling)
    assert unlearned(falling[::-1])
    assert not unlearned([2.5, *[2.55] * 99])
    assert unlearned([*falling[:50], math.nan, *falling[51:]])
