"""The ranks end together, and the one that failed first is the one that is heard."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from benchmarks.compare.records import RunFolder
from benchmarks.core.ranks import RankError, on_ranks


def write_rank(folder: str) -> None:
    Path(folder, str(dist.get_rank())).write_text(str(dist.get_world_size()))


def fail_on_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("the cause")
    if dist.get_rank() == 2:
        # It would never end by itself.
        while True:
            signal.pause()
    dist.barrier()


def die_on_one() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


@pytest.mark.ranks
def test_the_function_runs_on_every_rank(tmp_path: Path) -> None:
    assert on_ranks(write_rank, 2, str(tmp_path))
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"0": "2", "1": "2"}


@pytest.mark.ranks
def test_an_error_in_one_rank_ends_all_and_is_the_one_raised() -> None:
    with pytest.raises(RankError) as caught:
        on_ranks(fail_on_one, 3)
    lines = str(caught.value).splitlines()
    assert lines[0] == "[rank 1 of 3]"
    assert lines[-1] == "ValueError: the cause"


@pytest.mark.ranks
def test_a_killed_rank_is_named_and_not_the_ones_that_lost_it() -> None:
    with pytest.raises(RankError) as caught:
        on_ranks(die_on_one, 2)
    last = str(caught.value).splitlines()[-1]
    assert last.startswith("[rank 1 of 2] was ended by signal SIGKILL")


@pytest.mark.ranks
@pytest.mark.slow
def test_under_torchrun_its_ranks_are_used_and_only_the_first_speaks(
    tmp_path: Path,
) -> None:
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks compare"
    options = "--task digits --steps 20 --seeds 1 --only hdet-no-warm-start --out"
    done = subprocess.run(
        [sys.executable, *torchrun.split(), *options.split(), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Folder:") == 1
    assert done.stdout.count("hdet-no-warm-start, seed 0") == 1
    assert done.stdout.count("Report:") == 1
    assert (tmp_path / "run" / "report.html").exists()
    assert RunFolder(tmp_path / "run").plan().replicas == 2
