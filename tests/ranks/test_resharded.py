"""Checkpoints of sharded models: loaded by other numbers of replicas and shards."""

import math

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import hdet
from tests.helpers import batch, small_model
from tests.rank_runner import run_ranks
from tests.ranks.common import AUTO
from tests.ranks.test_converged import KINDS, STEPS, app, make_schedule

pytestmark = [
    pytest.mark.ranks,
    # torch's own checkpoint code touches typed storages.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]


def _sharded(kind, replicas, shards):
    mesh = init_device_mesh("cpu", (replicas, shards), mesh_dim_names=("replicate", "shard"))
    model = small_model()
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), 0.03)
    if kind == "one cycle":
        return (
            model,
            optimizer,
            hdet.OneCycleAutoLR(optimizer, 0.05, STEPS, model=model, **AUTO),
        )
    return model, optimizer, make_schedule(kind, model, optimizer)


def _full(tensors):
    return [(t.full_tensor() if isinstance(t, DTensor) else t).clone() for t in tensors]


def _step(model, optimizer, scheduler, t):
    optimizer.zero_grad()
    x, y = batch(t, dist.get_rank())
    loss = (model(x) - y).square().mean()
    loss.backward()
    optimizer.step()
    scheduler.step(loss)


def _known(model, optimizer, scheduler):
    """Return what has to survive a change of replicas and shards."""
    state = scheduler.state_dict()
    kept = state.get("averaged", {}).get("weights", {}).values()
    moments = [optimizer.state[p]["exp_avg"] for p in model.parameters()]
    with torch.no_grad():
        tensors = _full([*model.parameters(), *kept, *moments])
    velocity = state.get("velocities"), state.get("exploration"), state.get("base_lrs")
    return scheduler.metrics()["step"], velocity, scheduler.metrics()["base_lr"], tensors


def _save_sharded(kind, folder):
    model, optimizer, scheduler = _sharded(kind, 4, 2)
    for t in range(20):
        _step(model, optimizer, scheduler, t)
    with scheduler.converged():
        state_dict_saver.save(app(model, optimizer, scheduler), checkpoint_id=folder)
        return _known(model, optimizer, scheduler)


def _load_sharded(kind, replicas, shards, folder):
    model, optimizer, scheduler = _sharded(kind, replicas, shards)
    state = app(model, optimizer, scheduler)
    state_dict_loader.load(state, checkpoint_id=folder)
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    known = _known(model, optimizer, scheduler)
    rows = scheduler.metrics()["replica_lr"]
    applied = [g["lr"] for g in optimizer.param_groups], scheduler.get_last_lr()
    for t in range(20, STEPS):
        _step(model, optimizer, scheduler, t)
    with torch.no_grad():
        finite = all(bool(t.isfinite().all()) for t in _full(model.parameters()))
    return known, rows, applied, finite, scheduler.metrics()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that gives the folder of a checkpoint, and what was saved in it."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = str(tmp_path_factory.mktemp("saved"))
            made[kind] = folder, run_ranks(_save_sharded, 8, kind, folder)[0]
        return made[kind]

    return of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("replicas", "shards"), [(2, 2), (8, 1)])
def test_four_replicas_of_two_shards_go_on_as_two_or_eight(kind, replicas, shards, saved):
    folder, (step, values, base, tensors) = saved(kind)
    assert step == 20
    ranks = run_ranks(_load_sharded, replicas * shards, kind, replicas, shards, folder)
    for known, rows, (set_rates, last), finite, metrics in ranks:
        assert known[:3] == (step, values, base)
        assert all(map(torch.equal, known[3], tensors))
        assert len(rows[0]) == len(metrics["losses"]) == replicas
        assert set_rates == last
        # The spread is laid anew, symmetric around the base rate on its own scale.
        row = sorted(rows[0])
        ends = row[0] + row[-1] if kind == "one cycle" else math.sqrt(row[0] * row[-1])
        assert ends == pytest.approx(2 * base[0] if kind == "one cycle" else base[0])
        assert finite
        assert metrics["step"] == STEPS
