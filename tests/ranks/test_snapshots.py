"""Snapshots that are spread over ranks come back on all of them."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hdet.replica.ensemble.meshes import find_replicas
from hdet.replica.explorer.snapshots import Snapshots
from hdet.state import Entries
from tests.helpers import batch, small_model
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

CAPACITY, CALLS = 6, 10  # it is full once


def _model():
    """Return a model with buffers, and weights in two precisions."""
    model = small_model(norm=True)
    model.register_parameter("narrow", nn.Parameter(torch.ones(3, dtype=torch.bfloat16)))
    return model


def _made(model, capacity=CAPACITY):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    replicas = find_replicas(model.parameters(), "Explorer")
    return Snapshots(optimizer, model, replicas, capacity)


def _local(tensor):
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _set(model, value):
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            _local(tensor).fill_(value)


def _values(model):
    tensors = [t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
    return {float(x) for t in tensors for x in _local(t).flatten()}


def _climb(model, snapshots):
    for k in range(CALLS):
        _set(model, k)
        snapshots.take(k, float(k))


def _restored(model, snapshots):
    """Go back to each snapshot in turn; return which came, and what the weights are then."""
    found = []
    for snapshot in snapshots.taken[::-1]:
        _set(model, -1.0 - dist.get_rank())
        restored = snapshots.restore(snapshot.log_rate)
        found.append((restored and restored.step, _values(model)))
    return found


def _resumed(state):
    model = _model()
    snapshots = _made(model)
    snapshots.assign(snapshots.parsed(Entries(state, "Explorer")))
    return model, snapshots


def _spread():
    model = _model()
    snapshots = _made(model)
    _climb(model, snapshots)
    kept, restored = len(snapshots._kept), _restored(model, snapshots)
    states = [None] * dist.get_world_size()
    dist.all_gather_object(states, snapshots.state_dict())
    own = _restored(*_resumed(states[dist.get_rank()]))
    first = _restored(*_resumed(states[0]))
    return kept, snapshots.taken, restored, own, first


def test_each_rank_keeps_its_share_and_all_go_back_to_any():
    ranks = run_ranks(_spread, 3)
    _, taken, *_ = ranks[0]
    assert [s.step for s in taken] == [0, 2, 4, 6, 8]
    assert {s.owner for s in taken} == {0, 1, 2}
    assert sum(kept for kept, *_ in ranks) == len(taken)
    assert max(kept for kept, *_ in ranks) <= 2
    for _, mine, restored, own, first in ranks:
        assert mine == taken
        assert restored == own == [(s.step, {float(s.step)}) for s in taken[::-1]]
        # Where one rank's state serves all, those that it kept are left.
        for (step, values), wanted in zip(first, taken[::-1], strict=True):
            left = [s.step for s in taken if s.owner == 0 and s.step <= wanted.step]
            assert step == max(left)
            assert values == {float(step)}


def _sharded():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = small_model()
    fully_shard(model, mesh=mesh)
    snapshots = _made(model)
    x, _ = batch(0, 0)
    _climb(model, snapshots)
    with torch.no_grad():
        model(x)  # the gathered weights of now stay
    restored = snapshots.restore(4.0)
    with torch.no_grad():
        output = model(x)
    kept = len(snapshots._kept)
    return kept, restored, output, _restored(model, snapshots), snapshots.taken


def test_shards_go_back_to_the_owners_and_the_model_computes_with_them():
    ranks = run_ranks(_sharded, 4)
    model = small_model()
    _set(model, 4.0)
    expected = model(batch(0, 0)[0]).detach()
    for rank, (kept, restored, output, found, taken) in enumerate(ranks):
        assert restored.step == 4
        torch.testing.assert_close(output, expected)
        assert found == [(s.step, {float(s.step)}) for s in taken[::-1]]
        assert kept == sum(s.owner == rank // 2 for s in taken)
