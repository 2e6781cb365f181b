"""`Explorer` on a (replicate, shard) mesh: a replica is a whole group of processes."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import hdet
from hdet.replica.explorer import reference as explorer_reference
from tests.helpers import batch, small_model
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

STEPS, T = 48, 4


def _loss(model, x, y):
    return (model(x) - y).square().mean()


def _probe(model, sync):
    return _loss(model, *batch(50_000 + sync, 0, size=16))


def _hsdp(settings, steps=STEPS):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = small_model()
    for layer in (model[0], model[2]):  # pyright: ignore[reportIndexIssue]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    calls = []

    def probe():
        calls.append(1)
        return _probe(model, len(calls) - 1)

    explorer = hdet.Explorer(
        optimizer,
        CosineAnnealingLR(optimizer, steps),
        sync_every=T,
        probe=probe,
        model=model,
        **settings,
    )
    rates = []
    for t in range(steps):
        optimizer.zero_grad()
        loss = _loss(model, *batch(t, dist.get_rank()))
        loss.backward()
        rates.append(explorer.get_last_lr()[0])
        optimizer.step()
        explorer.step(loss)
    full = [
        p.full_tensor().detach() if isinstance(p, DTensor) else p.detach()
        for p in model.parameters()
    ]
    return rates, full, explorer.metrics()


def _both_shards(model, step, replica):
    parts = [batch(step, 2 * replica + shard) for shard in range(2)]
    return torch.stack([_loss(model, x, y) for x, y in parts]).mean()


@pytest.mark.parametrize(("search", "steps"), [(False, STEPS), (True, 120)])
def test_two_replicas_of_two_shards_agree_with_the_reference(search, steps):
    # Shards cannot be trained apart: a search is the climb alone.
    ranks = run_ranks(_hsdp, 4, {"search": search}, steps)
    trace = explorer_reference.train(
        small_model(),
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.05),
        lambda o: CosineAnnealingLR(o, steps),
        _both_shards,
        _probe,
        explore=lambda _: [hdet.lr()],
        replicas=2,
        total_steps=steps,
        T=T,
        search=search,
        trials=False,
    )
    assert not ranks[0][2]["confounded"]
    for rank, (rates, full, metrics) in enumerate(ranks):
        replica = rank // 2
        assert rates == pytest.approx([step[0][replica] for step in trace.rates], rel=1e-7)
        for mine, theirs in zip(full, trace.models[replica].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-7, atol=1e-9)
        assert metrics["values"]["lr/0"] == pytest.approx(trace.values[-1][0], rel=1e-7)
        assert len(metrics["probes"]) == 2
        assert metrics["phase"] == "track"


def test_observing_sharded_replicas_changes_nothing():
    plain = run_ranks(_hsdp, 4, {"explore": []})
    observed = run_ranks(_hsdp, 4, {"mode": "observe"})
    for (rates, full, _), (expected, theirs, _) in zip(observed, plain, strict=True):
        assert rates == expected
        assert all(map(torch.equal, full, theirs))
    assert observed[0][2]["syncs"] == STEPS // T
    assert len(observed[0][2]["losses"]) == 2


@pytest.mark.filterwarnings("ignore:.*fewer than")
def test_sharded_replicas_are_one_after_the_freeze():
    ranks = run_ranks(_hsdp, 4, {"freeze_after": 10, "search": False})
    assert [metrics["syncs"] for _, _, metrics in ranks] == [3] * 4
    (rates, full, metrics), *others = ranks
    assert metrics["replica_lr"] == [[metrics["base_lr"][0]] * 2]
    for same_rates, theirs, _ in others:
        assert same_rates[12:] == rates[12:]
        assert all(map(torch.equal, full, theirs))
    assert ranks[2][0][:12] != rates[:12]
