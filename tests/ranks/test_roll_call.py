"""A process that does not come to a sync is an error that names it, and no silence."""

import re
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import hdet
from hdet.replica.meshes import find_replicas
from hdet.replica.roll_call import RollCall
from tests.helpers import loss_at, small_model
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

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
    ("fault", "step", "last"),
    [
        ("never steps", 4, "rank 1 (never seen)"),
        ("stops", 8, "rank 1 (last seen at the sync at step 4)"),
    ],
)
def test_a_rank_that_does_not_step_is_named_by_all_others(kind, fault, step, last):
    ranks = run_ranks(_train, 3, kind, fault)
    assert ranks[1] is None
    for rank in (0, 2):
        said, seconds = ranks[rank]
        assert said.startswith(f"[rank {rank} of 3] ")
        assert f"at the sync at step {step}, and these did not come: {last}." in said
        assert "Every rank has to call `step` once per optimizer step" in said
        assert seconds < PATIENCE


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
def test_ranks_that_meet_at_other_steps_all_say_who_is_where(kind):
    for rank, found in enumerate(run_ranks(_train, 3, kind, "converges alone")):
        assert found is not None
        assert f"[rank {rank} of 3]" in found[0]
        assert "different numbers of optimizer steps (0 at 8, 1 at 6, 2 at 8)" in found[0]


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
        assert "did not come: rank 1 (never seen)" in ranks[rank]
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
            call.assemble(f"turn {k}", torch.device("cpu"))
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "inner"))
    call = RollCall(find_replicas([], "x", mesh), "x")
    for k in range(3):
        call.assemble(f"turn {k}", torch.device("cpu"))
    return True


def test_several_roll_calls_do_not_mix():
    assert run_ranks(_several, 4) == [True] * 4


def _renewed(folder):
    call = RollCall(find_replicas([], "x"), "x")
    rank = dist.get_rank()
    call.assemble("before", torch.device("cpu"))
    dist.barrier()
    dist.destroy_process_group()
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/again", rank=rank, world_size=2
    )
    for k in range(3):
        call.assemble(f"after {k}", torch.device("cpu"))
    return True


def test_a_new_process_group_begins_anew(tmp_path):
    assert run_ranks(_renewed, 2, str(tmp_path)) == [True, True]


def test_the_message_reads_well():
    said = run_ranks(_train, 2, "explorer", "never steps")[0][0]
    assert re.fullmatch(
        r"\[rank 0 of 2\] `Explorer` waited 2 s at the sync at step 4, and these did not come: "
        r"rank 1 \(never seen\)\. Every rank has to call .* early end of its data\.",
        said,
    )
