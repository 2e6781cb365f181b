"""Sharded models: replicas are the replicate axis of the mesh, or there are none."""

import re

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

import hdet
from hdet.replica.paper import reference
from tests.helpers import batch, loss_at, small_model
from tests.rank_runner import run_ranks
from tests.ranks.common import SHORT, SHORT_STEPS, SHORT_T, squared_error

pytestmark = pytest.mark.ranks


def _hsdp():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = small_model()
    for layer in (model[0], model[2]):  # pyright: ignore[reportIndexIssue]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = hdet.OneCycleAutoLR(optimizer, 0.05, SHORT_STEPS, model=model, **SHORT)
    rates = []
    for t in range(SHORT_STEPS):
        x, y = batch(t, dist.get_rank())
        optimizer.zero_grad()
        loss = squared_error(model, x, y)
        loss.backward()
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step(loss)
    full = [
        p.full_tensor().detach() if isinstance(p, DTensor) else p.detach()
        for p in model.parameters()
    ]
    empty = sum(p.to_local().numel() == 0 for p in model.parameters())  # pyright: ignore[reportAttributeAccessIssue]
    return rates, full, scheduler.metrics(), empty


def _both_shards(model, step, replica):
    parts = [batch(step, 2 * replica + shard) for shard in range(2)]
    return torch.stack([squared_error(model, x, y) for x, y in parts]).mean()


def test_two_replicas_of_two_shards_agree_with_the_reference():
    ranks = run_ranks(_hsdp, 4)
    trace = reference.train(
        small_model(),
        lambda m: torch.optim.AdamW(m.parameters()),
        _both_shards,
        replicas=2,
        total_steps=SHORT_STEPS,
        max_lr=0.05,
        alpha=0.3,
        T=SHORT_T,
        S_warm=8,
        auto_lr=True,
        sigma=0.05,
    )
    assert any(empty for *_, empty in ranks)
    for rank, (rates, full, metrics, _) in enumerate(ranks):
        replica = rank // 2
        expected = [step[0][replica] for step in trace.rates]
        assert rates == pytest.approx(expected, rel=1e-8)
        models = trace.models[replica].parameters()
        for mine, theirs in zip(full, models, strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-8, atol=1e-9)
        assert len(metrics["losses"]) == 2
        assert metrics["divergence"] == ranks[0][2]["divergence"]


def _refused(kind):
    if kind == "one axis":
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
    model = small_model()
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    group = dist.group.WORLD if kind == "wrong group" else None
    said = []
    for call in (
        lambda: hdet.OneCycleAutoLR(
            optimizer, 0.1, 10, ensemble_lr_spread_ratio=0.1, process_group=group
        ),
        lambda: hdet.average_(model.parameters(), group),
    ):
        try:
            call()
            said.append("no error")
        except ValueError as error:
            said.append(str(error))
    hdet.OneCycleAutoLR(optimizer, 0.1, 10)
    return said


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("one axis", r"sharded over the mesh \[shard \(2\)\].*2-D mesh"),
        ("wrong group", r"ranks \[0, 1\] hold shards of the same replica"),
    ],
)
def test_shards_without_replicas_are_refused_on_every_rank_with_the_remedy(kind, message):
    for said in run_ranks(_refused, 2, kind):
        for text in said:
            assert re.search(message, text), text


def _sharded_later(kind):
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    explorer = hdet.Explorer(optimizer, sync_every=2)
    if kind == "FSDP1":
        model = FullyShardedDataParallel(
            model, use_orig_params=True, device_id=torch.device("cpu")
        )
    else:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        optimizer.param_groups[0]["params"] = [*model.parameters()]
    loss_at(model, 0, dist.get_rank()).backward()
    optimizer.step()
    try:
        explorer.step(1.0)
    except ValueError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("FSDP1", r"does not work with FullyShardedDataParallel \(FSDP1\)"),
        ("FSDP2", r"was made before the optimizer got other parameters.*make it after that"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_sharded_later_is_refused_at_the_first_step(kind, message):
    for said in run_ranks(_sharded_later, 2, kind):
        assert re.search(message, said), said


def _noise():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = small_model()
    fully_shard(model, mesh=mesh)
    before = [p.to_local().clone() for p in model.parameters()]  # pyright: ignore[reportAttributeAccessIssue]
    hdet.add_noise_(model, 0.1)
    after = [p.to_local() for p in model.parameters()]  # pyright: ignore[reportAttributeAccessIssue]
    return torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)])


def test_noise_on_shards_is_independent_between_replicas_and_between_shards():
    noises = run_ranks(_noise, 4)
    for a in range(4):
        assert float(noises[a].detach().abs().max()) > 0
        for b in range(a):
            size = min(len(noises[a]), len(noises[b]), 8)
            assert not torch.equal(noises[a][:size], noises[b][:size])
