"""Old updates and new gradients on ranks: one number on all, and that of one process."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from hdet.replica.ensemble.deferred_agreement import DeferredAgreement
from hdet.replica.ensemble.groups import Replicas
from hdet.replica.ensemble.meshes import find_replicas
from tests.helpers import loss_at, small_model
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks


def _scored(model, watch, optimizer, losses):
    """Train 9 steps: the update of the steps 2 to 4 is scored from 6 on."""
    acts = {2: watch.mark, 5: watch.displace, 6: watch.score}
    for t in range(9):
        acts.get(t, lambda: None)()
        optimizer.zero_grad()
        losses(model, t).backward()
        optimizer.step()
    return watch.read()


def _ddp():
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    watch = DeferredAgreement(optimizer, find_replicas(model.parameters(), "Explorer"))
    ddp, rank = DistributedDataParallel(model), dist.get_rank()
    return _scored(ddp, watch, optimizer, lambda m, t: loss_at(m, t, rank))


def _sharded():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = small_model()
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    watch = DeferredAgreement(optimizer, find_replicas(model.parameters(), "Explorer"))
    rank = dist.get_rank()
    return _scored(model, watch, optimizer, lambda m, t: loss_at(m, t, rank))


def _alone(size):
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    watch = DeferredAgreement(optimizer, Replicas())

    def losses(m, t):
        return torch.stack([loss_at(m, t, r) for r in range(size)]).mean()

    return _scored(model, watch, optimizer, losses)


@pytest.mark.parametrize(("ranks", "size"), [(_ddp, 2), (_sharded, 4)])
def test_ranks_read_the_number_of_one_process(ranks, size):
    read, expected = run_ranks(ranks, size), _alone(size)
    assert all(own == read[0] for own in read)
    assert (read[0].known, read[0].steps) == (expected.known, expected.steps) == (True, 3)
    assert read[0].cosine == pytest.approx(expected.cosine, abs=1e-6)
    assert 0 < abs(expected.cosine) < 1


def _one_broken():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], 0.1)
    watch = DeferredAgreement(optimizer, Replicas())
    watch.mark()
    for value in (1.0, 1.0 if dist.get_rank() == 0 else float("nan")):
        weight.grad = torch.full((3,), value)
        optimizer.step()
        watch.displace()
        watch.score()
    weight.grad = torch.ones(3)
    optimizer.step()
    return watch.read()


def test_one_replicas_nan_is_known_to_all():
    assert not any(read.finite for read in run_ranks(_one_broken, 2))
