"""Tensor parallelism inside a replica: all its processes share one multiplier and one loss."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import hdet
from hdet.replica.explorer import reference as explorer_reference
from hdet.replica.paper import reference
from tests.helpers import WIDTH, batch, small_model
from tests.rank_runner import run_ranks
from tests.ranks.common import SHORT, SHORT_STEPS, SHORT_T, squared_error

pytestmark = pytest.mark.ranks


def _model():
    """Return a network with a norm in front, which tensor parallelism leaves whole."""
    return nn.Sequential(nn.LayerNorm(WIDTH, dtype=torch.float64), *small_model().children())


def _split(model, mesh):
    return parallelize_module(model, mesh, {"1": ColwiseParallel(), "3": RowwiseParallel()})


def _build(kind):
    """Return a model of two replicas, each of two processes, and the mesh of all."""
    if kind == "tp cut from a mesh":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        return _split(_model(), mesh["tp"]), mesh
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("dp_replicate", "dp_shard", "tp"))
    # The norm then lives on the two data-parallel axes, and the matrices on all three.
    model = _split(_model(), mesh["tp"])
    fully_shard(model, mesh=mesh["dp_replicate", "dp_shard"])
    return model, mesh


def _share_gradients(model, mesh):
    """Average gradients over `dp`, as DDP would for tensors that it can take."""
    group = mesh.get_group("dp")
    for p in model.parameters():
        gradient = p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
        dist.all_reduce(gradient, op=dist.ReduceOp.AVG, group=group)


def _full(model):
    return [
        p.full_tensor().detach() if isinstance(p, DTensor) else p.detach()
        for p in model.parameters()
    ]


def _probe(model, sync):
    return squared_error(model, *batch(50_000 + sync, 0, size=16))


def _train(kind, scheduler_kind):
    model, mesh = _build(kind)
    replica = dist.get_rank() // 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    calls = []

    def probe():
        calls.append(1)
        return _probe(model, len(calls) - 1)

    if scheduler_kind == "explorer":
        scheduler = hdet.Explorer(
            optimizer, sync_every=SHORT_T, probe=probe, model=model, search=False
        )
    else:
        scheduler = hdet.OneCycleAutoLR(optimizer, 0.05, SHORT_STEPS, model=model, **SHORT)
    rates = []
    for t in range(SHORT_STEPS):
        optimizer.zero_grad()
        loss = squared_error(model, *batch(t, replica))
        loss.backward()
        if kind == "tp cut from a mesh":
            _share_gradients(model, mesh)
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step(loss)
    return rates, _full(model), scheduler.metrics()


def _own_loss(model, step, replica):
    return squared_error(model, *batch(step, replica))


@pytest.mark.parametrize("scheduler_kind", ["explorer", "one cycle"])
@pytest.mark.parametrize("kind", ["tp cut from a mesh", "fsdp and tp"])
def test_two_replicas_of_two_tensor_parallel_processes_agree_with_the_reference(
    kind, scheduler_kind
):
    model = _model()
    if scheduler_kind == "explorer":
        trace = explorer_reference.train(
            model,
            lambda m: torch.optim.AdamW(m.parameters(), lr=0.05),
            None,
            _own_loss,
            _probe,
            explore=lambda _: [hdet.lr()],
            replicas=2,
            total_steps=SHORT_STEPS,
            T=SHORT_T,
            search=False,
        )
    else:
        trace = reference.train(
            model,
            lambda m: torch.optim.AdamW(m.parameters()),
            _own_loss,
            replicas=2,
            total_steps=SHORT_STEPS,
            max_lr=0.05,
            alpha=0.3,
            T=SHORT_T,
            S_warm=8,
            auto_lr=True,
            sigma=0.05,
        )
    ranks = run_ranks(_train, 4, kind, scheduler_kind)
    for rank, (rates, full, metrics) in enumerate(ranks):
        replica = rank // 2
        assert rates == pytest.approx([step[0][replica] for step in trace.rates], rel=1e-7)
        for mine, theirs in zip(full, trace.models[replica].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-7, atol=1e-9)
        assert len(metrics["losses"]) == 2


def _averaged(name):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=(name, "tp"))
    model = _split(_model(), mesh["tp"])
    with torch.no_grad():
        for p in model.parameters():
            local = p.to_local() if isinstance(p, DTensor) else p
            local.fill_(float(dist.get_rank() // 2))
    try:
        hdet.average_(model.parameters())
    except ValueError as error:
        return str(error)
    return [float(w.detach().mean()) for w in _full(model)]


def test_average_finds_the_replicas_outside_the_tensor_parallel_axis():
    for means in run_ranks(_averaged, 4, "dp"):
        assert means == [0.5] * 6


def test_an_axis_whose_name_says_nothing_is_not_taken_for_replicas():
    for said in run_ranks(_averaged, 4, "pp"):
        assert "sharded over the mesh [tp (2)]" in said
        assert "name the replicas with `process_group`" in said


def _given_a_mesh():
    """Two data-parallel processes in each replica, which torch knows nothing of."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
    model = nn.Linear(WIDTH, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    explorer = hdet.Explorer(optimizer, sync_every=2, search=False, process_group=mesh)
    inner = mesh.get_group("inner")
    ddp = nn.parallel.DistributedDataParallel(model, process_group=inner)
    for t in range(8):
        loss = squared_error(ddp, *batch(t, dist.get_rank()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        explorer.step(loss)
    return explorer.metrics(), explorer.get_last_lr(), [p.detach() for p in model.parameters()]


def test_a_mesh_names_the_replicas_and_the_processes_inside_them():
    ranks = run_ranks(_given_a_mesh, 4)
    for metrics, rates, parameters in ranks:
        assert len(metrics["losses"]) == 2
        # Losses of both processes of a replica are in its mean: all agree on it.
        assert metrics["losses"] == ranks[0][0]["losses"]
        assert all(map(torch.equal, parameters, ranks[0][2]))
        assert len(rates) == 1
    assert ranks[0][1] == ranks[1][1] != ranks[2][1] == ranks[3][1]


# --- what each rank of a replica would do differently


def _refused(kind):
    warnings.simplefilter("ignore")
    model = small_model().float()
    if kind.startswith("fsdp1"):
        from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

        strategy = {
            "full": ShardingStrategy.FULL_SHARD,
            "hybrid": ShardingStrategy.HYBRID_SHARD,
        }[kind.split()[1]]
        mesh = init_device_mesh("cpu", (1, 2)) if "hybrid" in kind else None
        model = FullyShardedDataParallel(
            model,
            sharding_strategy=strategy,
            device_mesh=mesh,
            use_orig_params="original" in kind,
            device_id=torch.device("cpu"),
        )
        optimizer = torch.optim.AdamW(model.parameters())
    else:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.1)
    said = []
    for call in (
        lambda: hdet.OneCycleAutoLR(optimizer, 0.1, 10, ensemble_lr_spread_ratio=0.1),
        lambda: hdet.Explorer(optimizer),
        lambda: hdet.average_(model.parameters()),
    ):
        try:
            call()
            said.append("no error")
        except ValueError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize(
    "kind", ["fsdp1 full", "fsdp1 full original", "fsdp1 hybrid original", "zero"]
)
def test_optimizers_of_shards_are_refused_on_every_rank_with_the_remedy(kind):
    for rank, said in enumerate(run_ranks(_refused, 2, kind)):
        # What ZeRO has updated is whole again after each step, and can be averaged.
        assert said.pop() == "no error" if kind == "zero" else True
        for text in said:
            assert text.startswith(f"[rank {rank} of 2]")
            assert "FullyShardedDataParallel" in text or "ZeroRedundancyOptimizer" in text
            assert "fully_shard on a 2-D (replicate, shard) mesh" in text
