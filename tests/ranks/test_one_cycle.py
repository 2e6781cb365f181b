"""`OneCycleAutoLR` on real ranks: null settings, resume, faults."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from schedulefree import AdamWScheduleFree
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR

import hdet
from tests.helpers import loss_at, small_model, train_ddp, two_groups, weights
from tests.rank_runner import run_ranks
from tests.ranks.common import AUTO, STEPS, T, setup_run

pytestmark = pytest.mark.ranks

# --- null settings


def _null(count_collectives):
    model, optimizer, scheduler = setup_run({"model_sync_interval": T})
    plain_model = small_model()
    plain = torch.optim.AdamW(two_groups(plain_model))
    plain_schedule = OneCycleLR(plain, [0.02, 0.05], STEPS)
    rank, calls = dist.get_rank(), []
    original = dist.all_reduce
    if count_collectives:
        dist.all_reduce = lambda *a, **k: calls.append(1) or original(*a, **k)
    try:
        mine = train_ddp(model, optimizer, scheduler, rank, range(STEPS))
        scheduler.converge()
    finally:
        dist.all_reduce = original

    class WithLoss:
        def step(self, _loss):
            plain_schedule.step()

    theirs = train_ddp(plain_model, plain, WithLoss(), rank, range(STEPS))
    equal = all(map(torch.equal, weights(model), weights(plain_model)))
    return mine == theirs, equal, len(calls)


def test_spread_0_is_ddp_with_onecyclelr_bit_for_bit_without_a_collective():
    # Three ranks: there, averaging equal weights changes their last bits.
    assert run_ranks(_null, 3, True) == [(True, True, 0)] * 3


# --- spread before the controller


def _spread_only(auto):
    settings = AUTO | {"enable_auto_lr": auto, "auto_lr_warmup_steps": STEPS - 1}
    model, optimizer, scheduler = setup_run(settings)
    together = []

    def look(t):
        mine = torch.cat([w.flatten() for w in weights(model)])
        everyone = [torch.empty_like(mine) for _ in range(4)]
        dist.all_gather(everyone, mine)
        together.append(all(torch.equal(mine, other) for other in everyone))

    rates = train_ddp(
        model, optimizer, scheduler, dist.get_rank(), range(STEPS), before_step=look
    )
    return rates, together, scheduler.metrics()


@pytest.mark.parametrize("auto", [False, True])
def test_rates_fan_out_and_weights_converge_whether_or_not_auto_lr_is_on(auto):
    plain = OneCycleLR(torch.optim.AdamW(two_groups(small_model())), [0.02, 0.05], STEPS)
    schedule = []
    for _ in range(STEPS):
        schedule.append(plain.get_last_lr())
        plain.optimizer.step()
        plain.step()
    rho = hdet.multipliers(4, 0.3).tolist()
    for rank, (rates, together, metrics) in enumerate(run_ranks(_spread_only, 4, auto)):
        expected = [[lr * rho[rank] for lr in step] for step in schedule]
        assert rates == expected
        assert together == [t % T == 0 for t in range(STEPS)]
        assert metrics["syncs"] == STEPS // T
        assert metrics["replica_lr"][0] == [metrics["base_lr"][0] * r for r in rho]
        assert all(d > 0 for d in metrics["divergence"])
        assert metrics["sync_ms"] > 0


# --- metrics


def _metrics():
    model, optimizer, scheduler = setup_run(AUTO)
    train_ddp(model, optimizer, scheduler, dist.get_rank(), range(STEPS))
    return scheduler.metrics(), scheduler.get_last_lr()


def test_metrics_are_the_same_on_every_rank_and_plain():
    results = run_ranks(_metrics, 4)
    first = results[0][0] | {"sync_ms": 0}
    assert set(first) == {
        *("step", "base_lr", "replica_lr", "velocity", "syncs", "masked_total"),
        *("losses", "masked", "divergence", "sync_ms", "weights", "delta", "floored"),
    }
    for rank, (metrics, mine) in enumerate(results):
        assert metrics | {"sync_ms": 0} == first
        assert [row[rank] for row in metrics["replica_lr"]] == mine
    groups = [sorted(row) for row in first["replica_lr"]]
    rho = hdet.multipliers(4, 0.3).tolist()
    for row, base in zip(groups, first["base_lr"], strict=True):
        assert row == pytest.approx([base * r for r in rho])


# --- resume


def _resume(stop, per_rank_files, folder):
    rank, size = dist.get_rank(), dist.get_world_size()
    model, optimizer, scheduler = setup_run(AUTO, norm=True)
    train_ddp(model, optimizer, scheduler, rank, range(stop))
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    torch.save(state, Path(folder) / f"{size}-{rank}.pt")
    dist.barrier()
    train_ddp(model, optimizer, scheduler, rank, range(stop, STEPS))
    whole = weights(model), scheduler.state_dict()

    torch.rand(rank + 1)
    model, optimizer, scheduler = setup_run(AUTO | {"seed": 9}, norm=True)
    source = rank if per_rank_files else 0
    saved = torch.load(Path(folder) / f"{size}-{source}.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    scheduler.load_state_dict(saved["scheduler"])
    optimizer.load_state_dict(saved["optimizer"])
    rates = [float(g["lr"]) for g in optimizer.param_groups]
    train_ddp(model, optimizer, scheduler, rank, range(stop, STEPS))
    same = all(map(torch.equal, whole[0], weights(model)))
    return same, whole[1] == scheduler.state_dict(), rates


@pytest.mark.parametrize("stop", [3, 12, 15, 27, 30])
def test_a_run_resumed_anywhere_in_an_interval_is_bit_identical(stop):
    with tempfile.TemporaryDirectory() as folder:
        results = run_ranks(_resume, 4, stop, True, folder)
    assert [(same, state) for same, state, _ in results] == [(True, True)] * 4


def test_rank_0_s_copy_serves_all_and_each_takes_up_its_own_rate():
    with tempfile.TemporaryDirectory() as folder:
        # Step 24 is a sync: the weights are common, and rank 0's are everyone's.
        results = run_ranks(_resume, 4, 24, False, folder)
    rates = [r for _, _, r in results]
    for group in zip(*rates, strict=True):
        assert len(set(group)) == 4


def _saved_state():
    model, optimizer, scheduler = setup_run(AUTO)
    train_ddp(model, optimizer, scheduler, dist.get_rank(), range(20))
    return scheduler.state_dict()


def _other_world(state):
    model, optimizer, scheduler = setup_run(AUTO)
    scheduler.load_state_dict(state)
    before = scheduler.metrics()
    train_ddp(model, optimizer, scheduler, dist.get_rank(), range(20, STEPS))
    return before, scheduler.metrics()


@pytest.mark.parametrize("size", [2, 3])
def test_a_state_loads_on_another_number_of_replicas(size):
    state = run_ranks(_saved_state, 4)[0]
    for before, after in run_ranks(_other_world, size, state):
        assert before["base_lr"] == state["controller"]["base_lrs"]
        assert before["velocity"] == state["controller"]["velocities"]
        for row, base in zip(
            before["replica_lr"], state["controller"]["base_lrs"], strict=True
        ):
            assert sum(row) == pytest.approx(size * base)
        assert after["step"] == STEPS
        assert len(after["losses"]) == size


# --- converge, buffers, the group


def _converge():
    model, optimizer, scheduler = setup_run(AUTO, norm=True)
    rank = dist.get_rank()
    # Buffers of their own on each rank, as with `broadcast_buffers=False`.
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    for t in range(9):
        loss = loss_at(wrapped, t, rank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
    before = scheduler.get_last_lr(), scheduler.state_dict()["ensemble"]["interval"]
    apart = copy.deepcopy(model.state_dict())
    scheduler.converge()
    after = scheduler.get_last_lr(), scheduler.state_dict()["ensemble"]["interval"]
    return apart, model.state_dict(), before == after, scheduler.metrics()["syncs"]


def test_converge_averages_now_and_leaves_rates_and_losses_as_they_were():
    results = run_ranks(_converge, 4)
    for _, together, unchanged, syncs in results:
        assert unchanged
        assert syncs == 2
        for name, value in together.items():
            copies = torch.stack([apart[name] for apart, *_ in results])
            if copies.is_floating_point():
                assert copies.std(0).max() > 0, name
                torch.testing.assert_close(value, copies.mean(0))


def _converging_often():
    model, optimizer, scheduler = setup_run(AUTO)
    wrapped = DistributedDataParallel(model)
    for t in range(8):
        loss = loss_at(wrapped, t, dist.get_rank())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
        scheduler.converge()
    return weights(model)


def test_converging_after_every_step_is_not_taken_for_stepping_twice():
    first, second = run_ranks(_converging_often, 2)
    assert all(map(torch.equal, first, second))


def _rank_arguments_are_overruled():
    optimizer = torch.optim.AdamW(two_groups(small_model()))
    scheduler = hdet.OneCycleAutoLR(
        optimizer, 0.1, STEPS, ensemble_lr_spread_ratio=0.3, rank=0, world_size=1
    )
    return scheduler.get_last_lr()[0]


def test_rank_and_world_size_come_from_the_process_group():
    rates = run_ranks(_rank_arguments_are_overruled, 3)
    expected = [0.1 / 25 * rho for rho in hdet.multipliers(3, 0.3).tolist()]
    assert rates == pytest.approx(expected, rel=1e-12)


def _subgroup():
    rank = dist.get_rank()
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    _, optimizer, scheduler = setup_run(AUTO | {"process_group": groups[rank % 2]})
    for _ in range(STEPS):
        optimizer.step()
        scheduler.step(float(rank))
    return scheduler.metrics()["losses"]


def test_a_process_group_names_the_replicas():
    assert run_ranks(_subgroup, 4) == [[0.0, 2.0], [1.0, 3.0]] * 2


def _loads_the_optimizer_of_rank_0():
    _, optimizer, scheduler = setup_run(AUTO)
    mine = scheduler.get_last_lr()
    box = [optimizer.state_dict()]
    dist.broadcast_object_list(box)
    optimizer.load_state_dict(box[0])
    return mine == [g["lr"] for g in optimizer.param_groups]


def test_the_spread_survives_loading_rank_0_s_optimizer_on_every_rank():
    assert run_ranks(_loads_the_optimizer_of_rank_0, 4) == [True] * 4


def _global_rng():
    optimizer = torch.optim.AdamW(two_groups(small_model()))
    state = torch.get_rng_state()
    scheduler = hdet.OneCycleAutoLR(optimizer, 0.1, STEPS, **AUTO)
    for _ in range(STEPS):
        optimizer.step()
        scheduler.step(1.0)
    return torch.equal(torch.get_rng_state(), state)


def test_the_global_random_state_is_never_touched():
    assert run_ranks(_global_rng, 2) == [True] * 2


def _schedule_free():
    model = small_model()
    optimizer = AdamWScheduleFree(model.parameters(), lr=0.02, weight_decay=0.1)
    optimizer.train()
    scheduler = hdet.OneCycleAutoLR(optimizer, 0.02, STEPS, cycle_momentum=False, **AUTO)
    train_ddp(model, optimizer, scheduler, dist.get_rank(), range(T))
    averaged = [optimizer.state[p]["z"].clone() for p in model.parameters()]
    optimizer.eval()
    return averaged, weights(model)


def test_schedule_frees_second_copy_of_the_weights_is_averaged():
    ranks = run_ranks(_schedule_free, 2)
    for mine, theirs in zip(*ranks, strict=True):
        assert all(map(torch.equal, mine, theirs))


def _coupled(weight_decay):
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=weight_decay)
    scheduler = hdet.OneCycleAutoLR(optimizer, 0.02, STEPS, **AUTO)
    moments = []
    for steps in (range(T - 1), range(T - 1, T)):
        train_ddp(model, optimizer, scheduler, dist.get_rank(), steps)
        moments.append([optimizer.state[p]["exp_avg"].clone() for p in model.parameters()])
    return moments


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_moments_differ_only_under_coupled_decay_and_never_after_a_sync(weight_decay):
    first, second = run_ranks(_coupled, 2, weight_decay)
    before = all(map(torch.equal, first[0], second[0]))
    assert before == (weight_decay == 0)
    assert all(map(torch.equal, first[1], second[1]))
