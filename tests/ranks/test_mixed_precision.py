"""Both schedulers under autocast, with bfloat16 weights, and with a GradScaler's skips."""

import io
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from hdet.replica.explorer.config import SearchConfig
from tests.helpers import batch, small_model, weights
from tests.rank_runner import run_ranks
from tests.ranks.test_optimizer_options import (
    KINDS,
    LR,
    STEPS,
    T,
    equal,
    found,
    make_scheduler,
    own_schedule,
    ran,
    reference_run,
)

SHARE = SearchConfig().averaging_weight
pytestmark = pytest.mark.ranks


def float_model():
    return small_model().float()


def adamw(model, **options):
    return torch.optim.AdamW(model.parameters(), LR, **options)


def single_loss(model, t, rank):
    """Return the loss of a model whose weights are not float64."""
    x, y = batch(t, rank)
    dtype = next(model.parameters()).dtype
    return (model(x.to(dtype)).float() - y.float()).square().mean()


# --- autocast

# Half of a bfloat16's last digit, relative: what a single other rounding makes.
NARROW = 2.0**-9


def autocast_loss(model, t, rank):
    x, y = batch(t, rank)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x.float())
    assert out.dtype == torch.bfloat16
    return (out.float() - y.float()).square().mean()


def _autocast(kind):
    rank, model = dist.get_rank(), float_model()
    optimizer = adamw(model)
    scheduler = make_scheduler(kind, model, optimizer, autocast_loss)
    ddp = DistributedDataParallel(model)
    losses, rates, synced = [], [], []
    for t in range(STEPS):
        optimizer.zero_grad()
        loss = autocast_loss(ddp, t, rank)
        loss.backward()
        losses.append(loss.item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(loss)
        if (t + 1) % T == 0:
            synced.append(weights(model))
    return losses, rates, synced, scheduler.metrics()["syncs"]


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_replicas_meet_and_agree_with_the_reference(kind):
    ranks = ran(_autocast, 4, kind)
    trace = reference_run(kind, float_model(), adamw, autocast_loss, 4)
    in_full = reference_run(kind, float_model(), adamw, single_loss, 4)
    for r, (losses, rates, synced, syncs) in enumerate(ranks):
        assert syncs == len(synced) == STEPS // T
        assert all(equal(a, b) for a, b in zip(synced, ranks[0][2], strict=True))
        assert losses == pytest.approx([row[r] for row in trace.losses], rel=NARROW)
        assert losses != pytest.approx([row[r] for row in in_full.losses], rel=NARROW)
        assert rates == pytest.approx([step[0][r] for step in trace.rates], rel=NARROW)
        assert sum(losses[-T:]) < sum(losses[:T])
    for mine, theirs in zip(ranks[0][2][-1], trace.models[0].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=NARROW, atol=NARROW)


# --- weights in bfloat16

# OneCycle's own end is at rates whose steps bfloat16 rounds away.
SETTINGS = {
    "one cycle": {"auto_lr_warmup_steps": 3 * T, "final_div_factor": 50.0},
    "explorer": {},
}


def _in_bfloat16(kind):
    rank, model = dist.get_rank(), small_model().bfloat16()
    optimizer = adamw(model)
    scheduler = make_scheduler(kind, model, optimizer, single_loss, **SETTINGS[kind])
    ddp = DistributedDataParallel(model)
    apart, together, averages, excluded = [], [], [], []
    for t in range(STEPS):
        optimizer.zero_grad()
        loss = single_loss(ddp, t, rank)
        loss.backward()
        optimizer.step()
        before = weights(model)
        scheduler.step(loss)
        if (t + 1) % T == 0:
            apart.append(before)
            together.append(weights(model))
            excluded.append(scheduler.metrics().get("excluded", []))
            averages.append(scheduler.state_dict().get("averaged"))
    return apart, together, excluded, averages, scheduler.metrics().get("rollbacks", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_weights_become_the_float32_mean_rounded_once(kind):
    ranks = ran(_in_bfloat16, 4, kind)
    assert all(rollbacks == 0 for *_, rollbacks in ranks)
    for k in range(STEPS // T):
        excluded = ranks[0][2][k]
        everyone = [apart[k] for apart, *_ in ranks]
        standing = [own for r, own in enumerate(everyone) if r not in excluded]
        for i, copies in enumerate(zip(*standing, strict=True)):
            # Sums of a few bfloat16 are exact in float32, in any order.
            mean = torch.stack(copies).float().sum(0) / len(copies)
            for _, together, *_ in ranks:
                assert together[k][i].dtype == torch.bfloat16
                assert torch.equal(together[k][i], mean.bfloat16())
        assert any(not equal(everyone[0], own) for own in everyone[1:])


def test_explorer_averages_bfloat16_weights_over_syncs_in_float32():
    for _, together, _, averages, _ in ran(_in_bfloat16, 4, "explorer"):
        expected = [w.float() for w in together[0]]
        for weight, state in zip(together, averages, strict=True):
            expected = [
                e.lerp(w.float(), SearchConfig().averaging_weight)
                for e, w in zip(expected, weight, strict=True)
            ]
            assert state["exists"]
            kept = list(state["weights"].values())
            assert all(k.dtype == torch.float32 for k in kept)
            for mine, theirs in zip(kept, expected, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def _all_broken():
    rank, model = dist.get_rank(), small_model().bfloat16()
    optimizer = adamw(model)
    scheduler = make_scheduler("explorer", model, optimizer, single_loss)
    ddp = DistributedDataParallel(model)
    safe, restored, losses = [], False, []
    for t in range(STEPS):
        if t == 3 * T + 1:
            safe = list(scheduler.state_dict()["averaged"]["weights"].values())
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)
        optimizer.zero_grad()
        loss = single_loss(ddp, t, rank)
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
        losses.append(loss.item())
        if t + 1 == 4 * T:
            restored = equal(weights(model), [s.bfloat16() for s in safe])
    return restored, scheduler.metrics()["rollbacks"], losses


def test_explorer_returns_to_the_averaged_weights_rounded_to_bfloat16():
    for restored, rollbacks, losses in run_ranks(_all_broken, 2):
        assert restored
        assert rollbacks == 1
        broken = range(3 * T + 1, 4 * T)
        assert [t for t, loss in enumerate(losses) if math.isnan(loss)] == list(broken)


def _resumed(kind):
    rank, stop = dist.get_rank(), 3 * T + 2

    def made():
        model = small_model().bfloat16()
        # Wrapped before anything is loaded: DDP sends rank 0's weights to all when made.
        ddp = DistributedDataParallel(model)
        optimizer = adamw(model)
        scheduler = make_scheduler(kind, model, optimizer, single_loss, **SETTINGS[kind])
        return model, ddp, optimizer, scheduler

    def train(ddp, optimizer, scheduler, steps):
        for t in steps:
            optimizer.zero_grad()
            loss = single_loss(ddp, t, rank)
            loss.backward()
            optimizer.step()
            scheduler.step(loss)

    model, ddp, optimizer, scheduler = made()
    train(ddp, optimizer, scheduler, range(stop))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, scheduler)], file)
    at_stop = weights(model)
    train(ddp, optimizer, scheduler, range(stop, STEPS))
    whole = weights(model), found(scheduler)

    model, ddp, optimizer, scheduler = made()
    file.seek(0)
    for part, state in zip(
        (model, optimizer, scheduler), torch.load(file, weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    train(ddp, optimizer, scheduler, range(stop, STEPS))
    return at_stop, whole, (weights(model), found(scheduler))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bfloat16_run_resumed_from_a_file_per_rank_is_bit_identical(kind):
    # Two ranks: a new DDP adds up the gradients in another order at first, which rounds
    # otherwise for more, also without a scheduler.
    ranks = ran(_resumed, 2, kind)
    for _, (mine, metrics), (theirs, expected) in ranks:
        assert equal(mine, theirs)
        assert metrics == expected
    assert not equal(ranks[0][0], ranks[1][0])


# --- a GradScaler that skips steps

# Attempts that overflow: the first of all, in a row, the last before and the first after a
# sync, and at its place.
SKIPPED = (0, 4, 9, 10, 17, 18, 19, 24)
TAKEN = 21
WAYS = {
    "plain": {},
    "fused": {"fused": True},
    "clipped": {},
    "fused and clipped": {"fused": True},
}


def _attempts(kind, way, skipped, spread: bool | None = True):
    """Train `TAKEN` steps besides the attempts that overflow, which one rank brings about."""
    rank, model = dist.get_rank(), float_model()
    optimizer = adamw(model, **WAYS[way])
    scheduler: Any
    if spread is None:
        scheduler = own_schedule(kind, optimizer)
    else:
        scheduler = make_scheduler(kind, model, optimizer, single_loss, spread=spread)
    ddp = DistributedDataParallel(model)
    # Powers of two, so that scaling changes no bit.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=5)
    steps, rates, losses, scales = [], [], [], []
    taken = 0
    for attempt in range(TAKEN + len(skipped)):
        optimizer.zero_grad()
        loss = single_loss(ddp, taken, rank)
        if attempt in skipped and rank == 1:
            loss = loss * math.inf
        scaler.scale(loss).backward()
        if "clipped" in way:
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 2.0)
        rate = optimizer.param_groups[0]["lr"]
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        if spread is None:
            scheduler.step()
            steps.append(scheduler.last_epoch)
        else:
            scheduler.step(loss)
            steps.append(scheduler.metrics()["step"])
        rates.append(rate)
        if attempt not in skipped:
            taken += 1
            losses.append(loss.item())
    metrics = {} if spread is None else found(scheduler)
    return {
        "steps": steps,
        "rates": rates,
        "losses": losses,
        "scales": scales,
        "metrics": metrics,
        "weights": weights(model),
    }


def _skipping(kind):
    return {way: [_attempts(kind, way, bad) for bad in (SKIPPED, ())] for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_is_not_counted_and_syncs_come_every_t_steps_taken(kind, way):
    for results in ran(_skipping, 2, kind):
        run, _ = results[way]
        done = [n - sum(s < n for s in SKIPPED) for n in range(1, TAKEN + len(SKIPPED) + 1)]
        assert run["steps"] == done
        assert run["metrics"]["step"] == TAKEN
        assert run["metrics"]["syncs"] == TAKEN // T
        before = [2.0**8, *run["scales"][:-1]]
        pairs = zip(before, run["scales"], strict=True)
        assert tuple(k for k, (a, b) in enumerate(pairs) if b < a) == SKIPPED


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_with_skipped_steps_the_run_is_the_one_without_them_bit_for_bit(kind, way):
    for results in ran(_skipping, 2, kind):
        run, alone = results[way]
        took = [rate for k, rate in enumerate(run["rates"]) if k not in SKIPPED]
        assert took == alone["rates"]
        assert equal(run["weights"], alone["weights"])
        assert run["metrics"] == alone["metrics"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_skipped_step_is_not_in_the_intervals_mean(kind, way):
    ranks = ran(_skipping, 2, kind)
    last = slice((TAKEN // T - 1) * T, TAKEN // T * T)
    means = [math.fsum(r[way][0]["losses"][last]) / T for r in ranks]
    for results in ranks:
        metrics = results[way][0]["metrics"]
        assert metrics["losses"] == pytest.approx(means, rel=1e-6)
        assert metrics["masked_total"] == [0, 0]


def _micro_batches(kind):
    return _of_micro_batches(kind, (1, 12)), _of_micro_batches(kind, ())


def _of_micro_batches(kind, skipped):
    rank, model = dist.get_rank(), float_model()
    optimizer = adamw(model)
    scheduler = make_scheduler(kind, model, optimizer, single_loss)
    ddp = DistributedDataParallel(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    taken = 0
    for attempt in range(3 * T + len(skipped)):
        optimizer.zero_grad()
        for k in range(2):
            with ddp.no_sync() if k == 0 else torch.enable_grad():
                loss = single_loss(ddp, 2 * taken + k, rank)
                if attempt in skipped and k == 0 and rank == 1:
                    loss = loss * math.inf
                scaler.scale(loss / 2).backward()
            scheduler.observe(loss)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        taken += attempt not in skipped
    return weights(model), found(scheduler)


@pytest.mark.parametrize("kind", KINDS)
def test_observed_micro_batches_of_a_skipped_step_are_not_in_the_intervals_mean(kind):
    for (mine, metrics), (theirs, expected) in ran(_micro_batches, 2, kind):
        assert metrics["step"] == 3 * T
        assert metrics["losses"] == expected["losses"]
        assert metrics["masked_total"] == [0, 0]
        assert equal(mine, theirs)


def _counting_every_call(kind):
    # Not the very first: torch warns of a scheduler that is stepped before its optimizer.
    ways = ("plain", "fused")
    return {w: [_attempts(kind, w, SKIPPED[1:], s) for s in (False, None)] for w in ways}


@pytest.mark.parametrize("kind", KINDS)
def test_with_nothing_spread_every_call_counts_as_it_does_for_torch(kind):
    for results in ran(_counting_every_call, 2, kind):
        for mine, torchs in results.values():
            assert mine["steps"] == torchs["steps"]
            assert mine["steps"] == list(range(1, TAKEN + len(SKIPPED)))
            assert mine["rates"] == torchs["rates"]
            assert len(set(mine["rates"])) == len(mine["rates"])
            assert equal(mine["weights"], torchs["weights"])
            assert mine["metrics"]["syncs"] == 0
