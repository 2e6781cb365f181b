"""Local mode: replicas that do not share gradients, whose whole state is averaged."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import hdet
from hdet.replica.ensemble.optimizer_state import all_state
from hdet.replica.paper import reference
from tests.helpers import batch, loss_at, small_model
from tests.rank_runner import run_ranks
from tests.ranks.common import SHORT, SHORT_STEPS, SHORT_T

pytestmark = pytest.mark.ranks


def _scheduler(kind, model, optimizer, **more):
    if kind == "one cycle":
        return hdet.OneCycleAutoLR(
            optimizer, 0.05, SHORT_STEPS, model=model, shared_gradients=False, **SHORT, **more
        )
    probe = lambda: loss_at(model, 9_999, 0)
    return hdet.Explorer(
        optimizer, sync_every=SHORT_T, probe=probe, model=model, shared_gradients=False, **more
    )


def _train(kind):
    """Local SGD: DDP's own `no_sync`, at every step."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    scheduler = _scheduler(kind, model, optimizer)
    ddp = DistributedDataParallel(model)
    rates, gaps = [], []
    for t in range(SHORT_STEPS):
        optimizer.zero_grad()
        with ddp.no_sync():
            loss = loss_at(ddp, t, dist.get_rank())
            loss.backward()
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step(loss)
        gaps.append([s.clone() for s in all_state(optimizer)])
    state = [p.detach().clone() for p in model.parameters()] + gaps[-1]
    return rates, state, gaps, scheduler.metrics()


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
def test_state_runs_apart_between_syncs_and_is_one_after(kind):
    ranks = run_ranks(_train, 3, kind)
    for t in range(SHORT_STEPS):
        same = all(map(torch.equal, ranks[0][2][t], ranks[1][2][t]))
        assert same == ((t + 1) % SHORT_T == 0)
    for _, state, _, metrics in ranks:
        assert all(map(torch.equal, state, ranks[0][1]))
        assert metrics["syncs"] == SHORT_STEPS // SHORT_T


def _reference(replicas):
    """Local SGD with HDET, line by line, in one process; return rates and weights."""
    models = [copy.deepcopy(small_model()) for _ in range(replicas)]
    optimizers = [torch.optim.AdamW(m.parameters(), 0.05) for m in models]
    rates = [[0.05 * rho for rho in hdet.multipliers(replicas, 0.3).tolist()]] * SHORT_STEPS
    for t in range(SHORT_STEPS):
        for r, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.zero_grad()
            loss_at(model, t, r).backward()
            optimizer.param_groups[0]["lr"] = rates[t][r]
            optimizer.step()
        if (t + 1) % SHORT_T == 0:
            reference.average(models, optimizers, follow=all_state)
    return rates, list(models[0].parameters())


def _constant():
    """The same with a constant base rate: a peak held by equal ends, and no controller."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    scheduler = hdet.OneCycleAutoLR(
        optimizer,
        0.05,
        SHORT_STEPS,
        div_factor=1.0,
        final_div_factor=1.0,
        cycle_momentum=False,
        ensemble_lr_spread_ratio=0.3,
        model_sync_interval=SHORT_T,
        model=model,
        shared_gradients=False,
    )
    for t in range(SHORT_STEPS):
        optimizer.zero_grad()
        loss = loss_at(model, t, dist.get_rank())
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
    return [p.detach() for p in model.parameters()]


def test_it_agrees_with_local_sgd_line_by_line():
    _, expected = _reference(3)
    for parameters in run_ranks(_constant, 3):
        for mine, theirs in zip(parameters, expected, strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-9, atol=1e-12)


def _groups(wrap):
    """Replicas of two processes each, data-parallel or sharded inside, alone between syncs."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model: nn.Module = small_model()
    inside = mesh.get_group("shard")
    if wrap == "fsdp":
        fully_shard(model, mesh=mesh["shard"])
        forward = model
        # Found by itself: the mesh that ["shard"] was cut from has an axis of replicas.
        found = None
    else:
        forward = DistributedDataParallel(model, process_group=inside)
        found = mesh
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    probe_batch = batch(9_999, 0)
    explorer = hdet.Explorer(
        optimizer,
        sync_every=SHORT_T,
        probe=lambda: (model(probe_batch[0]) - probe_batch[1]).square().mean(),
        model=model,
        shared_gradients=False,
        process_group=found,
    )
    states = []
    for t in range(SHORT_STEPS):
        optimizer.zero_grad()
        x, y = batch(t, dist.get_rank())
        loss = (forward(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        explorer.step(loss)
        tensors = [*model.parameters(), *all_state(optimizer)]
        with torch.no_grad():
            whole = [s.full_tensor() if isinstance(s, DTensor) else s for s in tensors]
        states.append([s.detach().clone() for s in whole])
    return states, explorer.get_last_lr(), explorer.metrics()["losses"]


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_replicas_of_several_processes_are_alone_between_syncs(wrap):
    ranks = run_ranks(_groups, 4, wrap)
    for t in range(SHORT_STEPS):
        first, mate, other = (ranks[r][0][t] for r in (0, 1, 2))
        assert all(map(torch.equal, first, mate))
        assert all(map(torch.equal, first, other)) == ((t + 1) % SHORT_T == 0)
    assert ranks[0][1] == ranks[1][1] != ranks[2][1]
    assert all(losses == ranks[0][2] for _, _, losses in ranks)
    assert len(ranks[0][2]) == 2


# --- nothing explored: the run to compare with


def _control(kind):
    rank, size = dist.get_rank(), dist.get_world_size()
    model = torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    if kind == "explorer":
        scheduler = hdet.Explorer(
            optimizer, explore=[], sync_every=2, model=model, shared_gradients=False
        )
    else:
        scheduler = hdet.OneCycleAutoLR(
            optimizer,
            0.5,
            10,
            model_sync_interval=2,
            model=model,
            shared_gradients=False,
            div_factor=1.0,
            pct_start=0.9999,
            cycle_momentum=False,
        )
    seen = []
    for _ in range(3):
        # The gradient is the rank: replica r loses r / 2 at every step.
        model.weight.grad = torch.full_like(model.weight, float(rank))
        optimizer.step()
        scheduler.step(float(rank))
        seen.append(model.weight.item())
    with scheduler.converged():
        inside = model.weight.item()
    return size, seen, inside, scheduler.metrics()


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
def test_without_a_spread_local_replicas_are_averaged_all_the_same(kind):
    for rank, (_, seen, inside, metrics) in enumerate(run_ranks(_control, 2, kind)):
        # 1 and 1 - 2 / 2 make 0.5; one more step of 0 and 0.5 makes 0.25.
        assert seen == [1 - rank / 2, 0.5, 0.5 - rank / 2]
        assert inside == 0.25
        assert metrics["syncs"] == 2
        assert metrics["losses"] == [0.0, 1.0]
