"""Both schedulers under DDP's options, beside other process groups, and compiled."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

import hdet
from tests.helpers import WIDTH, batch, loss_at, small_model, weights
from tests.rank_runner import run_ranks
from tests.ranks.test_optimizer_options import (
    KINDS,
    LR,
    STEPS,
    T,
    equal,
    found,
    make_scheduler,
    ran,
)

pytestmark = pytest.mark.ranks

# Steps of a run that several options are tried on, and its syncs.
SHORT, SYNCS = 5 * T, 5
HOOKS = {
    "no hook": None,
    "finite mean": hdet.finite_mean_hook,
    "fp16": default_hooks.fp16_compress_hook,
    "fp16 around finite mean": default_hooks.fp16_compress_wrapper(hdet.finite_mean_hook),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "static graph": {"static_graph": True},
    "find unused": {"find_unused_parameters": True},
    "bucket view": {"gradient_as_bucket_view": True},
    "small buckets": {"bucket_cap_mb": 1e-4},
}


def adamw(model, rate: Any = LR):
    return torch.optim.AdamW(model.parameters(), rate, weight_decay=0.1)


def train(ddp, model, optimizer, scheduler, loss, steps):
    """Train; return the weights just before every sync, and just after."""
    apart, together = [], []
    for t in steps:
        optimizer.zero_grad()
        value = loss(ddp, t, dist.get_rank())
        value.backward()
        optimizer.step()
        before = weights(model)
        scheduler.step(value)
        if (t + 1) % T == 0:
            apart.append(before)
            together.append(weights(model))
    return apart, together


def same(mine, theirs) -> bool:
    """Return whether the weights are the same, to the last bit, at every sync."""
    return len(mine) == len(theirs) and all(map(equal, mine, theirs))


# --- options that change how gradients travel, and not what they are


def _with_options(kind, options, hook, broken):
    model = small_model()
    optimizer = adamw(model)
    scheduler = make_scheduler(kind, model, optimizer)
    ddp = DistributedDataParallel(model, **OPTIONS[options])
    if HOOKS[hook] is not None:
        ddp.register_comm_hook(None, HOOKS[hook])

    def loss(model, t, rank):
        bad = broken and (t, rank) == (2 * T + 1, 1)
        return loss_at(model, t, rank) * (math.nan if bad else 1)

    return *train(ddp, model, optimizer, scheduler, loss, range(SHORT)), found(scheduler)


def _every_option(kind):
    cases = [(o, h, False) for o in OPTIONS for h in ("no hook", "finite mean")]
    cases += [(o, "finite mean", True) for o in OPTIONS]
    cases += [(o, h, False) for o in ("plain", "static graph") for h in list(HOOKS)[2:]]
    return {case: _with_options(kind, *case) for case in cases}


@pytest.mark.parametrize("hook", ["no hook", "finite mean"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_run_is_that_of_plain_ddp_bit_for_bit(kind, options, hook):
    # Of two gradients the sum is the same in any order and any bucket.
    ranks = ran(_every_option, 2, kind)
    for results in ranks:
        apart, together, metrics = results[options, hook, False]
        expected_apart, expected, theirs = results["plain", "no hook", False]
        assert len(together) == SYNCS
        assert same(together, expected)
        assert same(apart, expected_apart)
        assert metrics == theirs
    first, second = (r[options, hook, False] for r in ranks)
    assert same(first[1], second[1])
    assert not any(map(equal, first[0], second[0]))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_replica_is_healed_under_any_option(kind, options):
    ranks = ran(_every_option, 2, kind)
    for results in ranks:
        _, together, metrics = results[options, "finite mean", True]
        assert same(together, results["plain", "finite mean", True][1])
        assert same(together, ranks[0][options, "finite mean", True][1])
        assert not same(together, results[options, "finite mean", False][1])
        assert all(w.isfinite().all() for w in together[-1])
        assert metrics["masked_total"] == [0, 1]


@pytest.mark.parametrize("options", ["plain", "static graph"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_travel_in_float16_change_little_and_leave_replicas_equal(kind, options):
    ranks = ran(_every_option, 2, kind)
    for results in ranks:
        _, together, metrics = results[options, "fp16", False]
        assert same(together, ranks[0][options, "fp16", False][1])
        assert same(together, results[options, "fp16 around finite mean", False][1])
        _, whole, expected = results["plain", "no hook", False]
        assert not same(together, whole)
        for mine, theirs in zip(together[-1], whole[-1], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-3)
        assert metrics["losses"] == pytest.approx(expected["losses"], rel=1e-2)


# --- parameters without a gradient


# Steps at which no rank uses the side branch.
NOBODY = (0, 6, 11, 12, 3 * T - 1)


class Branched(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = small_model()
        self.side = nn.Linear(WIDTH, 1).double()
        self.never = nn.Linear(3, 3).double()
        with torch.no_grad():
            for parameter in (*self.side.parameters(), *self.never.parameters()):
                parameter.fill_(0.3)

    def forward(self, x, part):
        return self.main(x) if part is None else self.main(x) + part * self.side(x)


def _branched(kind, hook, by_zero, nobody_at):
    """Train a model whose side branch rank 1 uses at every other step only."""
    model = Branched()
    optimizer = adamw(model)

    def loss(model, t, rank):
        part = 1.0 if rank == 0 or t % 2 == 0 else 0.0 if by_zero else None
        x, y = batch(t, rank)
        return (model(x, None if t in nobody_at else part) - y).square().mean()

    scheduler = make_scheduler(kind, model, optimizer, loss)
    ddp = DistributedDataParallel(model, find_unused_parameters=True)
    if HOOKS[hook] is not None:
        ddp.register_comm_hook(None, HOOKS[hook])
    stood_still = []
    syncs = [], []
    for t in range(SHORT):
        before = weights(model.side)
        found = train(ddp, model, optimizer, scheduler, loss, [t])
        for kept, new in zip(syncs, found, strict=True):
            kept.extend(new)
        stood_still.append(equal(weights(model.side), before))
    grads = [p.grad is None and p not in optimizer.state for p in model.never.parameters()]
    return *syncs, weights(model.never), all(grads), stood_still


def _every_branched(kind):
    return {
        "by zero": _branched(kind, "no hook", True, ()),
        "no hook": _branched(kind, "no hook", False, ()),
        "finite mean": _branched(kind, "finite mean", False, ()),
        "nobody": _branched(kind, "no hook", False, NOBODY),
    }


@pytest.mark.parametrize("hook", ["no hook", "finite mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_unused_on_one_rank_is_averaged_as_if_its_gradient_there_were_0(kind, hook):
    ranks = ran(_every_branched, 2, kind)
    for results in ranks:
        apart, together, *_, stood_still = results[hook]
        assert len(together) == SYNCS
        assert same(apart, results["by zero"][0])
        assert same(together, results["by zero"][1])
        assert same(together, ranks[0][hook][1])
        assert not any(stood_still)
    side = [name for name, _ in Branched().named_parameters()].index("side.weight")
    for mine, theirs in zip(*(r[hook][0] for r in ranks), strict=True):
        assert not torch.equal(mine[side], theirs[side])


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_that_nobody_uses_stays_as_it_is_while_the_others_meet(kind):
    ranks = ran(_every_branched, 2, kind)
    for results in ranks:
        for case in results:
            assert all(bool((w == 0.3).all()) for w in results[case][2])
            assert results[case][3]
        _, together, *_, stood_still = results["nobody"]
        assert same(together, ranks[0]["nobody"][1])
        # At the last of its steps it meets with the others: there is a sync.
        assert [t for t, still in enumerate(stood_still) if still] == list(NOBODY[:-1])


# --- batch norm's statistics


def _normed(kind, broadcast):
    rank, model = dist.get_rank(), small_model(norm=True)
    optimizer = adamw(model)
    # In eval mode the probe would see the statistics, which are what differs here.
    more: dict[str, Any] = {"probe_mode": "train"} if kind == "explorer" else {}
    scheduler = make_scheduler(kind, model, optimizer, **more)
    ddp = DistributedDataParallel(model, broadcast_buffers=broadcast)
    syncs, excluded = [], []
    for t in range(SHORT):
        optimizer.zero_grad()
        loss = loss_at(ddp, t, rank)
        loss.backward()
        optimizer.step()
        before = [b.clone() for b in model.buffers()]
        scheduler.step(loss)
        if (t + 1) % T == 0:
            syncs.append((before, [b.clone() for b in model.buffers()], weights(model)))
            excluded += scheduler.metrics().get("excluded", [])
    return syncs, excluded


def _both_ways(kind):
    return {broadcast: _normed(kind, broadcast) for broadcast in (True, False)}


@pytest.mark.parametrize("broadcast", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_averaged_whether_or_not_ddp_broadcasts_them(kind, broadcast):
    ranks = ran(_both_ways, 4, kind)
    assert not ranks[0][broadcast][1]
    for moment in zip(*(r[broadcast][0] for r in ranks), strict=True):
        for i, buffer in enumerate(moment[0][1]):
            if buffer.is_floating_point():
                copies = torch.stack([before[i] for before, _, _ in moment])
                assert copies.std(0).max() > 0
                assert all(torch.equal(after[i], buffer) for _, after, _ in moment)
                torch.testing.assert_close(buffer, copies.mean(0))
        assert all(equal(w, moment[0][2]) for *_, w in moment)
    for results in ranks:
        assert same([w for *_, w in results[True][0]], [w for *_, w in results[False][0]])
        gaps = zip(results[True][0], results[False][0], strict=True)
        assert not any(equal(mine[1], theirs[1]) for mine, theirs in gaps)


# --- other process groups


def _busy(kind, busy):
    """Train, sending sums over other groups meanwhile; one is on its way at every step."""
    rank, sums = dist.get_rank(), []
    pairs = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    mine, all_again = pairs[rank % 2], dist.new_group()
    model = small_model()
    optimizer = adamw(model)
    scheduler = make_scheduler(kind, model, optimizer)
    ddp = DistributedDataParallel(model)
    for t in range(SHORT):
        optimizer.zero_grad()
        loss = loss_at(ddp, t, rank)
        loss.backward()
        optimizer.step()
        if busy:
            of_pair, of_all = torch.full((3,), t + rank), torch.full((2,), rank + 1.0)
            work = dist.all_reduce(of_pair, group=mine, async_op=True)
            dist.all_reduce(of_all, group=all_again)
            scheduler.step(loss)
            assert work is not None
            work.wait()
            sums.append((of_pair.tolist(), of_all.tolist()))
        else:
            scheduler.step(loss)
    return weights(model), found(scheduler), sums


def _busy_and_not(kind):
    return _busy(kind, False), _busy(kind, True)


@pytest.mark.parametrize("kind", KINDS)
def test_another_groups_traffic_neither_disturbs_nor_is_disturbed(kind):
    for rank, (alone, busy) in enumerate(ran(_busy_and_not, 4, kind)):
        assert equal(busy[0], alone[0])
        assert busy[1] == alone[1]
        assert busy[1]["syncs"] == SYNCS
        pair = 2 * (rank % 2) + 2
        assert busy[2] == [([2 * t + pair] * 3, [10.0] * 2) for t in range(SHORT)]


def _ensemble(kind, which, group):
    """Train one of two ensembles, which differ in data and in their interval."""
    rank, model = dist.get_rank(group), small_model(which)
    shifted = lambda model, t, rank: loss_at(model, t + 1000 * which, rank)
    held_out = [batch(5000 + 10 * which + k, 0, size=16) for k in range(3)]
    score = lambda model, item: (model(item[0]) - item[1]).square().mean()
    more = {}
    if kind == "explorer":
        # Only the first of the group has data, and sends it to the others.
        more["probe"] = hdet.probe(model, held_out if rank == 0 else [], score, group)
    optimizer = adamw(model)
    scheduler = make_scheduler(
        kind, model, optimizer, shifted, every=T - which, process_group=group, **more
    )
    ddp = DistributedDataParallel(model, process_group=group)
    ddp.register_comm_hook(group, hdet.finite_mean_hook)
    for t in range(STEPS - 2 - 3 * which):
        optimizer.zero_grad()
        loss = shifted(ddp, t, rank)
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
    apart, metrics = weights(model), found(scheduler)
    with scheduler.converged():
        return apart, weights(model), metrics


def _side_by_side(kind):
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    which = dist.get_rank() // 2
    return _ensemble(kind, which, groups[which])


def _one_after_the_other(kind):
    return [_ensemble(kind, which, None) for which in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_ensembles_side_by_side_are_two_runs_of_their_own(kind):
    pairs, alone = ran(_side_by_side, 4, kind), ran(_one_after_the_other, 2, kind)
    for rank, (apart, together, metrics) in enumerate(pairs):
        expected_apart, expected, theirs = alone[rank % 2][rank // 2]
        assert equal(apart, expected_apart)
        assert equal(together, expected)
        assert metrics == theirs
        assert not equal(apart, pairs[rank ^ 1][0])
        assert equal(together, pairs[rank ^ 1][1])
        assert not equal(together, pairs[rank ^ 2][1])


# --- the wrapper in place of the model


def _given_as(way):
    net = small_model(norm=True)
    ddp = DistributedDataParallel(net)
    ways = {
        "bare": lambda: net,
        "wrapper": lambda: ddp,
        "compiled": lambda: torch.compile(ddp, backend="eager"),
    }
    optimizer = adamw(net)
    scheduler = hdet.Explorer(
        optimizer,
        probe=lambda: loss_at(net, 999, 0),
        model=ways[way](),
        sync_every=T,
        config=hdet.SearchConfig(max_trials=0),  # which the bare model cannot have
    )
    train(ddp, net, optimizer, scheduler, loss_at, range(STEPS))
    with scheduler.converged():
        buffers = [b.clone() for b in net.buffers()]
        return weights(net), buffers, ddp.training, found(scheduler)


def _given_every_way():
    return [_given_as(way) for way in ("bare", "wrapper", "compiled")]


def test_an_explorer_may_be_given_the_wrapper_for_the_model():
    for (mine, buffers, _, metrics), *others in run_ranks(_given_every_way, 2):
        for its, its_buffers, training, theirs in others:
            assert equal(its, mine)
            assert equal(its_buffers, buffers)
            assert training
            assert repr(theirs) == repr(metrics)  # some are NaN
