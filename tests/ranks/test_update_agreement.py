"""The agreement of updates and gradients on ranks: equal on all, and that of one process."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.nn.parallel import DistributedDataParallel

from hdet.replica.ensemble.groups import Replicas
from hdet.replica.ensemble.meshes import find_replicas
from hdet.replica.ensemble.update_agreement import UpdateAgreement
from hdet.state import Entries
from tests.helpers import WIDTH, loss_at, small_model
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

STEPS = 5


def _train(model, watch, losses, optimizer):
    read = []
    for t in range(STEPS):
        optimizer.zero_grad()
        losses(model, t).backward()
        optimizer.step()
        read.append(watch.read())
    return read


def _ddp(rates):
    rank = dist.get_rank()
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), rates[rank])
    watch = UpdateAgreement(optimizer, find_replicas(model.parameters(), "Explorer"))
    ddp = DistributedDataParallel(model)
    return _train(ddp, watch, lambda m, t: loss_at(m, t, rank), optimizer)


def _alone(size, make=small_model, lr=0.02):
    """Train on the batches of `size` ranks in one process."""
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    watch = UpdateAgreement(optimizer, Replicas())

    def losses(m, t):
        return torch.stack([loss_at(m, t, r) for r in range(size)]).mean()

    return _train(model, watch, losses, optimizer)


def _one_replica(mesh):
    """Return a single replica that is split over two processes."""
    own = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    assert isinstance(own, dist.ProcessGroup)
    return Replicas(own, (mesh.get_group(),))


def _close(ranks, expected):
    for read in ranks:
        for mine, theirs in zip(read, expected, strict=True):
            assert (mine.steps, mine.known) == (theirs.steps, theirs.known)
            assert mine.agreement == pytest.approx(theirs.agreement, abs=1e-6)
            assert mine.cosine == pytest.approx(theirs.cosine, abs=1e-6)


def test_ranks_that_share_their_gradients_read_the_numbers_of_one_process():
    ranks = run_ranks(_ddp, 2, [0.02, 0.02])
    assert ranks[0] == ranks[1]
    _close(ranks, _alone(2))


def test_replicas_at_rates_of_their_own_read_one_mean_to_the_last_bit():
    # Three: their mean is rounded.
    ranks = run_ranks(_ddp, 3, [0.01, 0.02, 0.05])
    assert ranks[0] == ranks[1] == ranks[2]
    assert 0 < abs(ranks[0][-1].agreement) < 1


def _with_norm():
    """Return a network with a frozen layer, and tensors that do not divide by two."""
    model = nn.Sequential(nn.LayerNorm(WIDTH, dtype=torch.float64), *small_model().children())
    model[0].bias.requires_grad_(False)
    return model


def _sharded(shape):
    names = ("replicate", "shard")[-len(shape) :]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    model = _with_norm()
    for layer in (model[1], model[3]):
        fully_shard(layer, mesh=mesh)
    # The norm stays whole on every process.
    fully_shard(model, mesh=mesh, ignored_params=set(model[0].parameters()))
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    one = len(shape) == 1
    replicas = _one_replica(mesh) if one else find_replicas(model.parameters(), "Explorer")
    watch = UpdateAgreement(optimizer, replicas)
    group = dist.group.WORLD
    read = []
    for t in range(STEPS):
        optimizer.zero_grad()
        loss_at(model, t, dist.get_rank()).backward()
        whole = model[0].weight
        assert not isinstance(whole, DTensor)
        dist.all_reduce(whole.grad, op=dist.ReduceOp.AVG, group=group)
        optimizer.step()
        read.append(watch.read())
    state = watch.state_dict()
    fresh = UpdateAgreement(optimizer, replicas)
    fresh.assign(fresh.parsed(Entries(state, "Explorer")))
    assert fresh.read() == read[-1]
    return read


@pytest.mark.parametrize("shape", [(2,), (2, 2)], ids=str)
def test_shards_add_up_to_the_numbers_of_the_whole(shape):
    size = 2 * len(shape)
    ranks = run_ranks(_sharded, size, shape)
    assert all(read == ranks[0] for read in ranks)
    _close(ranks, _alone(size, _with_norm))


def _pending():
    """Step a weight that is whole on both processes, whose gradient is still to be summed."""
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.tensor([1.0, 2.0])
    weight = nn.Parameter(DTensor.from_local(whole, mesh, [Replicate()]))
    optimizer = torch.optim.SGD([weight], 0.1)
    watch = UpdateAgreement(optimizer, _one_replica(mesh))
    for parts in ([1.0, 1.0], [-3.0, 1.0]):
        local = torch.full((2,), parts[dist.get_rank()]) * torch.tensor([1.0, -1.0])
        weight.grad = DTensor.from_local(local, mesh, [Partial()])
        optimizer.step()
    return watch.read()


def test_a_gradient_that_is_still_to_be_summed_counts_as_the_sum():
    for newest in run_ranks(_pending, 2):
        # 2, -2 and then -2, 2.
        assert newest.agreement == pytest.approx(-1)
        assert newest.steps == 1


def _one_broken():
    rank = dist.get_rank()
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], 0.1)
    watch = UpdateAgreement(optimizer, Replicas())
    for value in (1.0, 1.0 if rank == 0 else float("nan")):
        weight.grad = torch.full((3,), value)
        optimizer.step()
    return watch.read()


def test_one_replicas_nan_is_known_to_all():
    assert not any(newest.finite for newest in run_ranks(_one_broken, 2))
