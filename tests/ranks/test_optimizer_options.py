"""Both schedulers with the options that torch's optimizers and training loops have.

The set-up that is made here, with either scheduler, serves `test_mixed_precision` and
`test_ddp_options` too.
"""

import copy
import math
from functools import cache
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

import hdet
from hdet.replica.explorer import reference as explorer_reference
from hdet.replica.paper import reference
from tests.helpers import batch, loss_at, small_model, weights
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

KINDS = ["one cycle", "explorer"]
STEPS, T, LR = 40, 5, 0.03
AUTO = {
    "ensemble_lr_spread_ratio": 0.3,
    "auto_lr_warmup_steps": 2 * T,
    "enable_auto_lr": True,
    "loss_scale": 0.05,
}


def _of_each_kind(fn):
    return {kind: fn(kind) for kind in KINDS}


@cache
def _ran(fn, size):
    return run_ranks(_of_each_kind, size, fn)


def ran(fn, size, kind) -> list:
    """Return `fn(kind)` of every rank; the same processes serve all tests of both kinds."""
    return [results[kind] for results in _ran(fn, size)]


def own_schedule(kind, optimizer) -> LRScheduler:
    """Return torch's scheduler that the one of `kind` is, or wraps, with nothing spread."""
    if kind == "one cycle":
        return OneCycleLR(optimizer, LR, STEPS)
    return CosineAnnealingLR(optimizer, 2 * STEPS)


def make_scheduler(
    kind, model, optimizer, loss=loss_at, *, every=T, spread=True, **more
) -> Any:
    """Return a scheduler that syncs at every `every` steps."""
    if kind == "one cycle":
        auto: dict[str, Any] = AUTO if spread else {}
        more = {"model_sync_interval": every, "model": model, **auto, **more}
        return hdet.OneCycleAutoLR(optimizer, LR, STEPS, **more)
    more = {"probe": lambda: loss(model, 1000, 0), "model": model, "search": False, **more}
    schedule, explore = own_schedule(kind, optimizer), None if spread else []
    return hdet.Explorer(optimizer, schedule, explore, sync_every=every, **more)


def reference_run(kind, model, make_optimizer, loss, replicas):
    """Return the trace of what `make_scheduler` makes, in this process."""
    if kind == "one cycle":
        return reference.train(
            model,
            make_optimizer,
            loss,
            replicas=replicas,
            total_steps=STEPS,
            max_lr=LR,
            alpha=AUTO["ensemble_lr_spread_ratio"],
            T=T,
            S_warm=AUTO["auto_lr_warmup_steps"],
            auto_lr=True,
            sigma=AUTO["loss_scale"],
        )
    return explorer_reference.train(
        model,
        make_optimizer,
        lambda optimizer: own_schedule(kind, optimizer),
        loss,
        lambda model, _: loss(model, 1000, 0),
        explore=lambda _: [hdet.lr()],
        replicas=replicas,
        total_steps=STEPS,
        T=T,
        search=False,
    )


def equal(mine, theirs) -> bool:
    """Return whether two lists of tensors are the same to the last bit."""
    return len(mine) == len(theirs) and all(map(torch.equal, mine, theirs))


def found(scheduler) -> dict:
    """Return the metrics without the clock's."""
    metrics = scheduler.metrics()
    return {key: metrics[key] for key in metrics if key not in ("sync_ms", "probe_ms")}


# --- gradient clipping

NORM = 3.0


def _clipped(kind):
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    scheduler = make_scheduler(kind, model, optimizer)
    ddp = DistributedDataParallel(model)
    norms = []
    for t in range(STEPS):
        optimizer.zero_grad()
        loss = loss_at(ddp, t, rank)
        loss.backward()
        norms.append(float(clip_grad_norm_(model.parameters(), NORM)))
        optimizer.step()
        scheduler.step(loss)
    return norms, weights(model)


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_gradients_have_one_norm_on_all_ranks_and_agree_with_the_reference(kind):
    norms = []

    def clipping(model):
        optimizer = torch.optim.AdamW(model.parameters(), LR)
        clip = lambda *_: norms.append(float(clip_grad_norm_(model.parameters(), NORM)))
        optimizer.register_step_pre_hook(clip)
        return optimizer

    trace = reference_run(kind, small_model(), clipping, loss_at, 4)
    # The schedule is read off an optimizer without gradients first; then come 4 replicas.
    expected = norms[STEPS::4]
    ranks = ran(_clipped, 4, kind)
    for r, (seen, parameters) in enumerate(ranks):
        assert seen == ranks[0][0]
        assert seen == pytest.approx(expected, rel=1e-9)
        for mine, theirs in zip(parameters, trace.models[r].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-9, atol=1e-9)
    assert min(expected) < NORM < max(expected)


# --- gradient accumulation

MICRO = 4


def _accumulated(kind, micro):
    rank, model = dist.get_rank(), small_model()
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    scheduler = make_scheduler(kind, model, optimizer)
    ddp = DistributedDataParallel(model)
    rates = []
    for t in range(STEPS):
        parts = [batch(MICRO * t + k, rank) for k in range(MICRO)]
        optimizer.zero_grad()
        if micro:
            for k, (x, y) in enumerate(parts):
                with ddp.no_sync() if k < MICRO - 1 else torch.enable_grad():
                    loss = (ddp(x) - y).square().mean()
                    (loss / MICRO).backward()
                scheduler.observe(loss)
            optimizer.step()
            scheduler.step()
        else:
            x, y = (torch.cat(column) for column in zip(*parts, strict=True))
            loss = (ddp(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step(loss)
        rates += scheduler.get_last_lr()
    return rates, weights(model), scheduler.metrics()


def _accumulated_and_not(kind):
    return _accumulated(kind, True), _accumulated(kind, False)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulating_micro_batches_is_one_large_batch(kind):
    for one in ran(_accumulated_and_not, 2, kind):
        (rates, mine, metrics), (expected, theirs, whole) = one
        assert (metrics["step"], metrics["syncs"]) == (STEPS, STEPS // T)
        assert metrics["losses"] == pytest.approx(whole["losses"], rel=1e-9)
        assert rates == pytest.approx(expected, rel=1e-9)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# --- how the optimizer computes

WAYS = {
    "default": {},
    "foreach": {"foreach": True},
    "one by one": {"foreach": False},
    "fused": {"fused": True},
    "fused, a tensor for a rate": {"fused": True, "lr": torch.tensor(LR, dtype=torch.float64)},
}
OPTIMIZERS = {
    "adamw": lambda m, **way: torch.optim.AdamW(m.parameters(), **{"lr": LR, **way}),
    "adam with coupled decay": lambda m, **way: torch.optim.Adam(
        m.parameters(), **{"lr": LR, "weight_decay": 0.05, **way}
    ),
    "sgd with coupled decay": lambda m, **way: torch.optim.SGD(
        m.parameters(), **{"lr": LR, "momentum": 0.9, "weight_decay": 0.05, **way}
    ),
}


def _every_way(kind):
    rank = dist.get_rank()
    found = {}
    for name, make in OPTIMIZERS.items():
        for way, options in WAYS.items():
            model = small_model()
            optimizer = make(model, **copy.deepcopy(options))
            scheduler = make_scheduler(kind, model, optimizer)
            ddp = DistributedDataParallel(model)
            rate, rates = optimizer.param_groups[0]["lr"], []
            for t in range(5 * T):
                optimizer.zero_grad()
                loss = loss_at(ddp, t, rank)
                loss.backward()
                rates.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                scheduler.step(loss)
            kept = optimizer.param_groups[0]["lr"] is rate
            found[name, way] = rates, weights(model), scheduler.metrics()["syncs"], kept
    return found


@pytest.mark.parametrize("way", [way for way in WAYS if way != "default"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_however_the_optimizer_computes_the_run_is_the_same_to_rounding(kind, name, way):
    ranks = ran(_every_way, 2, kind)
    for results in ranks:
        expected, theirs, *_ = results[name, "default"]
        rates, mine, syncs, kept = results[name, way]
        assert rates == pytest.approx(expected, rel=1e-7)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
        assert syncs == 5
        assert equal(mine, ranks[0][name, way][1])
        if "tensor" in way:
            assert kept
    assert all(a != b for a, b in zip(*(r[name, way][0] for r in ranks), strict=True))


# --- compiled

# Attempts, of which some overflow, and the steps that are left.
ATTEMPTS, OVERFLOWS = 30, (3, 4, 11, 18)
LEFT = [sum(k not in OVERFLOWS for k in range(n)) for n in range(1, ATTEMPTS + 1)]


class Net(nn.Module):
    """A module of the user's own: dynamo leaves torch's, which it would find at the top."""

    def __init__(self):
        super().__init__()
        self.inner = small_model()

    def forward(self, x):
        return self.inner(x)


def _scaled(kind, compiled):
    """Train with a GradScaler, rank 1 overflowing at times; return the graphs and counts."""
    rank, model = dist.get_rank(), Net().float()

    def loss_of(model, t, rank):
        x, y = batch(t, rank)
        return (model(x.float()) - y.float()).square().mean()

    rate = torch.tensor(LR)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    of_model, of_step = CompileCounter(), CompileCounter()
    forward: Any = DistributedDataParallel(model)
    scheduler = make_scheduler(kind, model, optimizer, loss_of)
    if compiled:
        torch._dynamo.reset()
        forward = torch.compile(forward, backend=of_model)
        optimizer.step = torch.compile(optimizer.step, backend=of_step)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    graphs, counts, rates = [], [], []
    for attempt in range(ATTEMPTS):
        optimizer.zero_grad()
        loss = loss_of(forward, attempt, rank)
        bad = attempt in OVERFLOWS and rank == 1
        scaler.scale(loss * (math.inf if bad else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step(loss)
        graphs.append((of_model.frame_count, of_step.frame_count))
        counts.append(scheduler.metrics()["step"])
        rates.append(float(rate))
    kept = optimizer.param_groups[0]["lr"] is rate
    return graphs, counts, rates, kept, weights(model), found(scheduler)


def _compiled_and_not(kind):
    return _scaled(kind, True), _scaled(kind, False)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_model_and_step_make_no_graph_after_the_first_interval(kind):
    for compiled, plain in ran(_compiled_and_not, 2, kind):
        graphs, _, rates, kept, mine, metrics = compiled
        assert graphs[0] == (1, 1)
        assert graphs[T] == graphs[-1]
        assert kept
        assert len(set(rates)) > 2 * T
        assert rates == pytest.approx(plain[2], rel=1e-3)
        assert metrics["losses"] == pytest.approx(plain[5]["losses"], rel=1e-3)
        for a, b in zip(mine, plain[4], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_is_not_counted_where_the_step_is_compiled(kind):
    for compiled, plain in ran(_compiled_and_not, 2, kind):
        assert compiled[1] == plain[1] == LEFT
        assert compiled[5]["syncs"] == LEFT[-1] // T


# --- on devices


def _on_cuda(kind, capturable):
    rank = dist.get_rank()
    torch.cuda.set_device(rank)
    group: Any = dist.new_group(backend="nccl")
    model = small_model().cuda()

    def loss_on(model, t, replica):
        x, y = batch(t, replica)
        return (model(x.cuda()) - y.cuda()).square().mean()

    rate = torch.tensor(LR, dtype=torch.float64, device="cuda") if capturable else LR
    optimizer = torch.optim.AdamW(model.parameters(), rate, capturable=capturable)
    scheduler = make_scheduler(kind, model, optimizer, loss_on, process_group=group)
    ddp = DistributedDataParallel(model, process_group=group)
    for t in range(STEPS):
        optimizer.zero_grad()
        loss = loss_on(ddp, t, rank)
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
    kept = optimizer.param_groups[0]["lr"] is rate
    return [w.cpu() for w in weights(model)], scheduler.metrics()["syncs"], kept


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("kind", KINDS)
def test_a_capturable_optimizer_with_a_tensor_for_a_rate_runs_alike(kind):
    plain = run_ranks(_on_cuda, 2, kind, False)
    captured = run_ranks(_on_cuda, 2, kind, True)
    for (mine, syncs, kept), (theirs, *_) in zip(captured, plain, strict=True):
        assert kept
        assert syncs == STEPS // T
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
