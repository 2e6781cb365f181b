"""A process that does not come to a sync is an error that names it, and no silence."""

import os
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import hdet
from hdet.replica.ensemble.liveness import appear
from hdet.replica.ensemble.meshes import find_replicas
from hdet.replica.ensemble.roll_call import RollCall, _store
from tests.helpers import batch, loss_at, small_model
from tests.rank_runner import context, run_ranks
from tests.ranks.common import squared_error

pytestmark = pytest.mark.ranks

FIRST = "the first step since it was made or loaded, at step 1"
PATIENCE = 2  # seconds, in place of the half hour that torch allows


def _scheduler(kind, model, optimizer, group=None):
    if kind == "one cycle":
        return hdet.OneCycleAutoLR(
            optimizer,
            0.05,
            100,
            model=model,
            ensemble_lr_spread_ratio=0.3,
            model_sync_interval=4,
            process_group=group,
        )
    return hdet.Explorer(optimizer, sync_every=4, model=model, process_group=group)


def _train(kind, fault):
    """Train with a loop in which rank 1 does something else; return the error and its time."""
    rank = dist.get_rank()
    group = dist.new_group(timeout=timedelta(seconds=PATIENCE))
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    scheduler = _scheduler(kind, model, optimizer, group)
    # Without DDP: its own collectives would wait, and fail, in the same way.
    for t in range(10):
        optimizer.zero_grad()
        loss = loss_at(model, t, rank)
        loss.backward()
        optimizer.step()
        began = time.monotonic()
        try:
            if fault == "never steps" and rank == 1:
                continue
            if fault == "stops" and rank == 1 and t >= 5:
                continue
            scheduler.step(loss)
            if fault == "converges alone" and rank == 1 and t == 5:
                scheduler.converge()
        except RuntimeError as error:
            return str(error), time.monotonic() - began
    # The one at fault outlives the others' wait.
    time.sleep(1.5 * PATIENCE if rank == 1 else 0)
    return None


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
@pytest.mark.parametrize(
    ("fault", "moment", "last"),
    [
        ("never steps", FIRST, "rank 1 (never seen)"),
        ("stops", "the sync at step 8", "rank 1 (last seen at the sync at step 4)"),
    ],
)
def test_a_rank_that_does_not_step_is_named_by_all_others(kind, fault, moment, last):
    ranks = run_ranks(_train, 3, kind, fault)
    assert ranks[1] is None
    for rank in (0, 2):
        said, seconds = ranks[rank]
        name = "Explorer" if kind == "explorer" else "OneCycleAutoLR"
        assert said.startswith(
            f"[rank {rank} of 3] `{name}` waited 2 s at {moment}, and these did not come: "
            f"{last}. Every rank has to call `step` once per optimizer step, and "
        )
        assert said.endswith(" early end of its data.")
        # Rank 0 stays a moment longer, for the others to learn the cause from its store.
        assert seconds < PATIENCE + 2


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
def test_ranks_that_meet_for_different_things_all_say_who_is_where(kind):
    for rank, found in enumerate(run_ranks(_train, 3, kind, "converges alone")):
        assert found is not None
        assert f"[rank {rank} of 3]" in found[0]
        who = "`Explorer`" if kind == "explorer" else "`OneCycleAutoLR`"
        meets = [
            ("the sync at step 8", 0),
            ("`converge` at step 6", 1),
            ("the sync at step 8", 2),
        ]
        assert ", ".join(f"rank {r} for {what} of {who}" for what, r in meets) in found[0]


def _under_ddp():
    """Rank 1 leaves its loop early, and the others are in DDP's own collectives soon."""
    rank = dist.get_rank()
    group = dist.new_group(timeout=timedelta(seconds=PATIENCE))
    model = small_model()
    ddp = DistributedDataParallel(model, process_group=group)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    scheduler = _scheduler("explorer", model, optimizer, group)
    try:
        for t in range(10):
            optimizer.zero_grad()
            loss = loss_at(ddp, t, rank)
            loss.backward()
            optimizer.step()
            if rank != 1 or t < 3:
                scheduler.step(loss)
    except RuntimeError as error:
        return str(error)
    return None


def test_under_ddp_the_error_with_the_name_comes_first():
    ranks = run_ranks(_under_ddp, 3)
    for rank in (0, 2):
        assert f"did not come: rank 1 (last seen at {FIRST})" in ranks[rank]
    # Rank 1 waits for the others' gradients meanwhile, and knows nothing of the cause.
    assert ranks[1] is not None


def _several():
    """Roll calls over all ranks, over a part, and over all again; each twice."""
    rank = dist.get_rank()
    half = dist.new_group([0, 1])
    rest = dist.new_group([2, 3])
    groups: list[Any] = [None, half if rank < 2 else rest] * 2
    calls = [RollCall(find_replicas([], "x", group), "x") for group in groups]
    for k in range(6):
        for call in calls:
            call.assemble("the turn", k, torch.device("cpu"))
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "inner"))
    call = RollCall(find_replicas([], "x", mesh), "x")
    for k in range(3):
        call.assemble("the turn", k, torch.device("cpu"))
    return True


def test_several_roll_calls_do_not_mix():
    assert run_ranks(_several, 4) == [True] * 4


def _renewed(folder):
    call = RollCall(find_replicas([], "x"), "x")
    rank = dist.get_rank()
    call.assemble("before", 0, torch.device("cpu"))
    dist.barrier()
    dist.destroy_process_group()
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/again", rank=rank, world_size=2
    )
    for k in range(3):
        call.assemble("after", k, torch.device("cpu"))
    return True


def test_a_new_process_group_begins_anew(tmp_path):
    assert run_ranks(_renewed, 2, str(tmp_path)) == [True, True]


# --- processes that have ended


def _mortal(rank, size, folder, how, dead, probed, at):
    """Train without any collective but the scheduler's; rank `dead` ends before a step."""
    if how == "file":
        method = f"file://{folder}/rendezvous"
    else:
        method = f"tcp://127.0.0.1:{how}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=size)
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    probe = (
        hdet.probe(model, [batch(0, 0)], lambda m, b: squared_error(m, *b)) if probed else None
    )
    explorer = hdet.Explorer(
        optimizer, sync_every=4, model=model, probe=probe, shared_gradients=False
    )
    try:
        for t in range(12):
            if (t, rank) == (at, dead):
                os.kill(os.getpid(), signal.SIGKILL)
            loss = loss_at(model, t, rank)
            loss.backward()
            optimizer.step()
            explorer.step(loss)
    except RuntimeError as error:
        Path(f"{folder}/{rank}").write_text(str(error))
    os._exit(0)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def _survivors(folder, *args):
    """Return what the survivors of three ranks say, launched without any launcher."""
    ranks = [context.Process(target=_mortal, args=(r, 3, folder, *args)) for r in range(3)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return {int(file.name): file.read_text() for file in Path(folder).glob("?")}


@pytest.mark.parametrize(("at", "probed"), [(2, False), (6, True)])
def test_a_rank_that_was_killed_is_named_long_before_the_timeout(tmp_path, probed, at):
    # The group's timeout is torch's own, half an hour: the test's is two minutes.
    said = _survivors(str(tmp_path), "file", 2, probed, at)
    seen = f"last seen at {FIRST if at == 2 else 'the sync at step 4'}"
    for rank in (0, 1):
        what = "the probe" if probed else "the sync"
        moment = f"{what} at step {4 if at == 2 else 8}"
        assert (
            f"[rank {rank} of 3] `Explorer` waits at {moment} for processes that have ended: "
            f"rank 2 ({seen})." in said[rank]
        )


@pytest.mark.parametrize(("dead", "cause"), [(0, "rank 0, which keeps"), (2, "rank 2 (last")])
def test_who_was_killed_is_named_where_rank_0_keeps_the_store(tmp_path, dead, cause):
    said = _survivors(str(tmp_path), _free_port(), dead, True, 6)
    assert sorted(said) == [rank for rank in range(3) if rank != dead]
    assert all(cause in text for text in said.values())


def _dies_inside(folder):
    """Rank 1 is killed after the roll call, before the others' collectives are done."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    explorer = _scheduler("explorer", model, optimizer)
    meter = explorer._ensemble.meter
    if dist.get_rank() == 1:
        meter.row = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # pyright: ignore
    try:
        for t in range(4):
            loss_at(model, t, 0).backward()
            optimizer.step()
            explorer.step(1.0)
    except RuntimeError as error:
        Path(f"{folder}/said").write_text(str(error))
    os._exit(0)


def test_a_rank_that_is_killed_within_a_sync_is_named_too(tmp_path):
    with pytest.raises(AssertionError, match="exit codes"):
        run_ranks(_dies_inside, 2, str(tmp_path))
    said = (tmp_path / "said").read_text()
    assert "[rank 0 of 2] `Explorer` lost rank 1 within the sync at step 4" in said


def _probed(which):
    """A probe fails on one rank alone; return what each of them says."""
    rank = dist.get_rank()
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)

    def loader():
        yield batch(0, 0)
        raise OSError("disk gone")

    def broken():
        if rank == 1:
            raise OSError("disk gone")
        return 1.0

    probe = hdet.probe(model, loader(), lambda m, b: squared_error(m, *b))
    group: Any = dist.new_group(timeout=timedelta(seconds=PATIENCE))
    explorer = hdet.Explorer(
        optimizer,
        sync_every=2,
        model=model,
        probe=broken if which == "own" else probe,
        search=False,
        process_group=group,
    )
    for t in range(6):
        loss_at(model, t, 0).backward()
        optimizer.step()
        try:
            explorer.step()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return None


def test_a_loader_that_fails_on_rank_0_is_an_error_on_all():
    first, *others = run_ranks(_probed, 3, "loader")
    assert first == "OSError: disk gone"
    for said in others:
        assert "`probe(loader=...)` failed on its first process: OSError: disk gone" in said


def test_a_probe_that_fails_on_one_rank_is_no_hang_for_the_others():
    ranks = run_ranks(_probed, 3, "own")
    assert ranks[1] == "OSError: disk gone"
    for rank in (0, 2):
        assert "did not come: rank 1 (last seen at the probe at step 2)" in ranks[rank]


def _stopped():
    """Rank 1 is stopped for three looks of the others, and goes on."""
    rank = dist.get_rank()
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    explorer = _scheduler("explorer", model, optimizer)
    for t in range(10):
        if (t, rank) == (6, 1):
            me = os.getpid()
            if os.fork() == 0:
                time.sleep(3.5)
                os.kill(me, signal.SIGCONT)
                os._exit(0)
            os.kill(me, signal.SIGSTOP)
        loss = loss_at(model, t, rank)
        loss.backward()
        optimizer.step()
        explorer.step(loss)
    return explorer.metrics()["syncs"]


def test_a_rank_that_is_only_slow_is_waited_for():
    assert run_ranks(_stopped, 3) == [2, 2, 2]


def _outlived():
    """Rank 1 ends, and a child of it goes on."""
    store = _store()
    assert store is not None
    watch = appear(store)
    dist.barrier()
    if dist.get_rank() == 1:
        child = os.fork()
        if child:
            store.set("child", str(child))
        else:
            time.sleep(60)
        os._exit(0)
    child = int(store.get("child"))
    while not watch.ended([1]):
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise ValueError("seen")


def test_a_child_of_a_process_does_not_stand_in_for_it():
    with pytest.raises(AssertionError, match="ValueError: seen"):
        run_ranks(_outlived, 2)


# --- another world than it was made for


def _early(kind, folder):
    """Make it before the process group, and use it after; and after the group's end."""
    rank = dist.get_rank()
    dist.barrier()
    dist.destroy_process_group()
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    early = _scheduler(kind, model, optimizer)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/again", rank=rank, world_size=2
    )
    late = _scheduler(kind, model, torch.optim.AdamW(model.parameters(), 0.01))
    said = []
    for call in (lambda: early.step(1.0), early.converge, early.converged().__enter__):
        try:
            optimizer.step()
            call()
        except RuntimeError as error:
            said.append(str(error))
    dist.barrier()
    dist.destroy_process_group()
    try:
        late.converge()
    except RuntimeError as error:
        said.append(str(error))
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/once_more", rank=rank, world_size=2
    )
    return said


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
def test_what_was_made_for_another_world_says_so_on_every_rank(kind, tmp_path):
    for rank, said in enumerate(run_ranks(_early, 2, kind, str(tmp_path))):
        assert len(said) == 4
        for text in said[:3]:
            assert text.startswith(f"[rank {rank} of 2]")
            assert "was made for 1 replicas, and the process group now has 2" in text
            assert "make it after torch.distributed.init_process_group" in text
        assert "was made for 2 replicas, and the process group now has 1" in said[3]
