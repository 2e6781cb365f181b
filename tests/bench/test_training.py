"""A run that was stopped and killed is, in the end, one that never was."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hdet.bench.checkpoints import interval
from hdet.bench.compare import plan, run_all
from hdet.bench.launch import on_ranks
from hdet.bench.records import RunFolder, Settings
from hdet.bench.run_log import unlearned

# With two ranks a sum is the same in any order, and hides how DDP lays out its buckets.
RANKS, STEPS = 3, 60


@pytest.mark.parametrize(
    ("steps", "sync_every", "every"), [(250, 5, 60), (20, 5, 5), (10, 5, 5), (10, 20, 20)]
)
def test_checkpoints_come_at_syncs_about_four_times_a_run(
    steps: int, sync_every: int, every: int
) -> None:
    assert interval(steps, sync_every) == every


def started(*options: str) -> subprocess.Popen[str]:
    """Return `hdet compare` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hdet", "compare", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def metrics(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    """Return the whole lines of a run."""
    file = folder.run(name, 0) / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def signal_behind_checkpoint(
    process: subprocess.Popen[str], what: signal.Signals, folder: RunFolder, name: str
) -> str:
    """Send `what` to all processes once a run has a checkpoint; return the output."""
    newest = folder.run(name, 0) / "checkpoint.json"
    while process.poll() is None and not newest.exists():
        time.sleep(0.002)
    os.killpg(process.pid, what)
    # Returns once nobody holds the pipe any more: no rank is left behind.
    return process.communicate(timeout=20)[0]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "sync_ms"} for line in lines]


def planned() -> Settings:
    return plan(
        task="digits",
        replicas=RANKS,
        steps=STEPS,
        seeds=1,
        only=["warm-init", "hdet-full"],
        data=None,
        sync_every=5,
        spread=1 / 9,
        loss_scale=0.1,
    )


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stopped_then_killed_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    folder, whole = RunFolder(tmp_path / "cut"), RunFolder(tmp_path / "whole")
    folder.create(planned())
    resume = ["--resume", str(folder.path)]

    # Replicas that are never averaged, stopped by Ctrl-C.
    process = started(*resume)
    output = signal_behind_checkpoint(process, signal.SIGINT, folder, "warm-init")
    assert process.returncode == 130
    assert f"Go on with: hdet compare --resume {folder.path}" in output.replace("\n", "")
    assert "Traceback" not in output

    # Spread, averaging and auto-LR, killed without warning.
    process = started(*resume)
    signal_behind_checkpoint(process, signal.SIGKILL, folder, "hdet-full")
    assert process.returncode == -signal.SIGKILL
    unit = folder.run("hdet-full", 0)
    step = json.loads((unit / "checkpoint.json").read_text())["step"]
    kept = [line for line in metrics(folder, "hdet-full") if line["step"] <= step]
    with (unit / "metrics.jsonl").open("a") as file:
        # What was written behind the checkpoint, the last line of it torn.
        file.write(json.dumps({**kept[-1], "step": step + 1}) + "\n")
        file.write('{"kind": "step", "st')

    on_ranks(run_all, RANKS, str(folder.path), planned())
    on_ranks(run_all, RANKS, str(whole.path), planned())
    for name in ("warm-init", "hdet-full"):
        cut, expected = folder.result(name, 0), whole.result(name, 0)
        assert cut is not None
        assert expected is not None
        assert cut.train_loss == expected.train_loss
        assert cut.held_out_loss == expected.held_out_loss
        assert (cut.mean_lr, cut.final_lr) == (expected.mean_lr, expected.final_lr)
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
