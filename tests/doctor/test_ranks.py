"""What `hdet doctor` finds where the processes are not alike, or one of them fails."""

from datetime import timedelta

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from hdet.doctor import machine
from hdet.doctor.company import Company
from hdet.doctor.diagnosis import diagnose
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

PATIENCE = timedelta(minutes=1)


def _diagnosed(folder, target, odd=None):
    """Return this rank's findings; `odd` makes rank 1 another one."""
    rank, size = dist.get_rank(), dist.get_world_size()
    dist.barrier()
    dist.destroy_process_group()
    company = Company(FileStore(f"{folder}/store", size), rank, size, PATIENCE)
    if rank == 1 and odd is not None:
        odd()
    if odd is _hang:
        company._patience = timedelta(seconds=1)
    absent = rank == 1 and odd is _hang
    found = [] if absent else diagnose(company, target, None)
    company.leave()
    method = f"file://{folder}/again"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=size)
    return [(one.level, one.subject, one.words) for one in found]


def _old_torch():
    machine.versions = lambda: {"torch": "2.6.0"}


def _other_threads():
    machine.settings = lambda: {"OMP_NUM_THREADS": "64"}


def _other_device():
    def place(device):
        return {"machine": "here", "device": "H100", "backend": "nccl", "uuid": ""}

    machine.place = place


def _no_device():
    def take_device():
        raise RuntimeError("LOCAL_RANK=1, and this machine shows 1 CUDA devices")

    machine.take_device = take_device


def _wrong_sum():
    measure = machine.all_reduce
    machine.all_reduce = lambda device: {**measure(device), "right": False}


def _hang():
    """Never come; see `_diagnosed`."""


def _same_gpu(folder):
    def place(device):
        return {"machine": "here", "device": "H100", "backend": "nccl", "uuid": "GPU-1"}

    machine.place = place
    return _diagnosed(folder, None)


def wrongs(found, size=2):
    """Return what is wrong, which all ranks have found alike."""
    assert found[1:size] == found[:1] * (size - 1)
    return [(subject, words) for level, subject, words in found[0] if level == "wrong"]


@pytest.mark.parametrize(
    ("odd", "subject", "words"),
    [
        (_old_torch, "versions", "differ: torch (2.6.0 on rank 1; "),
        (_other_threads, "settings", "differ: OMP_NUM_THREADS (64 on rank 1; "),
        (_other_device, "devices", "differ: device (H100 on rank 1; cpu on the others)"),
        (_no_device, "process", "first on rank 1: LOCAL_RANK=1, and this machine shows 1 CUDA"),
        (_wrong_sum, "all-reduce", "the sum is not that of all, on rank 1"),
    ],
)
def test_a_rank_that_is_unlike_the_others_is_named(tmp_path, monkeypatch, odd, subject, words):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = wrongs(run_ranks(_diagnosed, 3, tmp_path, None, odd), 3)
    assert any(one == subject and said.startswith(words) for one, said in found), found


def test_two_processes_on_one_gpu_are_named(tmp_path):
    assert wrongs(run_ranks(_same_gpu, 2, tmp_path)) == [
        ("devices", "ranks 0, 1 use the same GPU: give each its own")
    ]


def test_a_rank_that_never_comes_is_named(tmp_path):
    (said,) = wrongs(run_ranks(_diagnosed, 2, tmp_path, None, _hang), 1)
    assert said == (
        "process",
        "first on rank 1: does not come to the start: it hangs, or is dead",
    )


def test_the_error_that_came_first_is_told_and_nobody_waits_in_a_collective(tmp_path):
    ranks = run_ranks(_diagnosed, 2, tmp_path, "tests.doctor.runs:fails_on_rank_1")
    ((subject, words),) = wrongs(ranks)
    assert subject == "run"
    assert words.startswith("first on rank 1: FileNotFoundError: train.bin (runs.py, line ")


def test_an_error_of_all_is_told_once(tmp_path):
    ((_, words),) = wrongs(run_ranks(_diagnosed, 2, tmp_path, "tests.doctor.runs:lbfgs"))
    assert words.startswith("on every rank: `Explorer` does not work with LBFGS")


def test_explorers_that_are_made_unlike_are_wrong(tmp_path):
    found = wrongs(run_ranks(_diagnosed, 2, tmp_path, "tests.doctor.runs:other_seeds"))
    # With two ranks it is open which of them is unlike.
    assert found[0][1].startswith("the ranks differ: seed (")


def test_the_axis_of_replicas_is_told(tmp_path):
    ranks = run_ranks(_diagnosed, 4, tmp_path, "tests.doctor.runs:sharded")
    assert wrongs(ranks, 4) == []
    told = {subject: words for _, subject, words in ranks[0]}
    assert told["replicas"].startswith(
        "2, each of 2 processes; the replicas of this one's part: ranks 0, 2: the search may"
    )
    assert "a replica is several processes" in told["trials"]
    # Each process sends its own shard.
    assert told["sync"].startswith("sends 500 kB, in about ")


def test_a_model_without_replicas_is_refused(tmp_path):
    ranks = run_ranks(_diagnosed, 4, tmp_path, "tests.doctor.runs:sharded_over_all")
    ((_, words),) = wrongs(ranks, 4)
    assert words.startswith("on every rank: `Explorer`: the model is sharded over the mesh")


def test_four_replicas_are_enough(tmp_path):
    ranks = run_ranks(_diagnosed, 4, tmp_path, "tests.doctor.runs:make")
    assert wrongs(ranks, 4) == []
    assert ("ok", "replicas", "4") in ranks[0]
