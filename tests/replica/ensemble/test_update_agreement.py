import math
from functools import partial

import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hdet.replica.ensemble import update_sums
from hdet.replica.ensemble.groups import Replicas
from hdet.replica.ensemble.update_agreement import UpdateAgreement
from hdet.state import Entries
from tests.helpers import batch, loss_at, small_model, two_groups


class Problem:
    """Two parameters whose gradients are given, under plain gradient descent."""

    def __init__(self, dtype=torch.float64, lr=0.1, **settings):
        self.a = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
        self.b = nn.Parameter(torch.tensor([0.5], dtype=dtype))
        self.optimizer = torch.optim.SGD([self.a, self.b], lr=lr, **settings)
        self.watch = UpdateAgreement(self.optimizer, Replicas())

    def step(self, a, b):
        for p, gradient in ((self.a, a), (self.b, b)):
            p.grad = None if gradient is None else torch.tensor(gradient).to(p)
        self.optimizer.step()
        return self.watch.read()


def test_both_numbers_are_those_computed_by_hand():
    problem = Problem()
    first = problem.step([2.0, -1.0], [4.0])
    assert (first.known, first.steps) == (False, 0)
    # w = -0.1 * (2, -1, 4)
    newest = problem.step([1.0, 3.0], [-0.5])
    products = [2 * 1, -1 * 3, 4 * -0.5]
    assert newest.agreement == pytest.approx(sum(products) / sum(map(abs, products)), abs=1e-12)
    norms = math.sqrt(4 + 1 + 16) * math.sqrt(1 + 9 + 0.25)
    assert newest.cosine == pytest.approx(sum(products) / norms, abs=1e-12)
    assert (newest.known, newest.steps) == (True, 1)
    # w = -0.1 * (1, 3, -0.5)
    later = problem.step([1.0, 1.0], [1.0])
    assert later.agreement == pytest.approx(sum([1, 3, -0.5]) / 4.5, abs=1e-12)
    assert later.steps == 1


def test_an_optimizer_that_climbs_agrees_with_the_gradient_itself():
    problem = Problem(maximize=True)
    problem.step([1.0, 1.0], [1.0])
    assert problem.step([1.0, 1.0], [1.0]).agreement == pytest.approx(1)


def test_what_is_frozen_or_has_no_gradient_is_left_out_of_the_step():
    problem = Problem()
    problem.step([1.0, 1.0], [1.0])
    assert problem.step([1.0, 1.0], None).agreement == pytest.approx(1)
    problem.a.requires_grad_(False)
    newest = problem.step([1.0, 1.0], [-3.0])
    # Of `b` the last update is that of the first step.
    assert newest.agreement == pytest.approx(-1)
    problem.a.requires_grad_(True)
    assert problem.step([1.0, 1.0], [-3.0]).steps == 1


def test_a_parameter_that_comes_later_counts_from_its_second_step():
    problem = Problem()
    problem.step([1.0, 1.0], None)
    assert problem.step([1.0, 1.0], [-100.0]).cosine == pytest.approx(1)
    assert problem.step([1.0, 1.0], [100.0]).cosine < 0


def test_after_a_change_from_outside_the_next_step_gives_no_number():
    problem = Problem()
    problem.step([1.0, 1.0], [1.0])
    problem.watch.forget()
    with torch.no_grad():
        problem.a.fill_(7)
    assert problem.step([1.0, 1.0], [1.0]).steps == 0
    assert problem.step([1.0, 1.0], [1.0]).agreement == pytest.approx(1)


def test_a_closed_one_watches_no_longer_and_holds_nothing():
    problem = Problem()
    problem.step([1.0, 1.0], [1.0])
    problem.watch.close()
    problem.step([1.0, 1.0], [1.0])
    assert problem.watch.read().steps == 0
    assert problem.watch.state_dict()["previous"] == {}


def test_weights_that_stand_still_give_no_number():
    problem = Problem(lr=0.0)
    problem.step([1.0, 1.0], [1.0])
    newest = problem.step([1.0, 1.0], [1.0])
    assert (newest.known, newest.finite, newest.agreement) == (False, True, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_said_and_no_number_given(value):
    problem = Problem()
    problem.step([1.0, 1.0], [1.0])
    read = problem.step([1.0, value], [1.0])
    assert (read.known, read.finite, read.agreement) == (False, False, 0.0)


def test_sparse_gradients_are_refused_with_the_remedy():
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(list(table.parameters()))
    watch = UpdateAgreement(optimizer, Replicas())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"sparse gradients: make .* `sparse=False`"):
        optimizer.step()
    watch.close()
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_products_too_small_for_half_precision_count(dtype):
    problem = Problem(dtype, lr=1.0)
    with torch.no_grad():
        problem.a.fill_(1e-3)
        problem.b.fill_(1e-3)
    # Their products, 1e-10, are zero in float16.
    problem.step([1e-5, 1e-5], [1e-5])
    newest = problem.step([1e-5, 1e-5], [-1e-5])
    assert newest.agreement == pytest.approx(1 / 3, abs=1e-2)


def test_a_complex_weight_counts_as_its_two_parts():
    weight = nn.Parameter(torch.tensor([1 + 1j]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    watch = UpdateAgreement(optimizer, Replicas())
    for gradient in (3 + 1j, 1 - 1j):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    assert watch.read().agreement == pytest.approx((3 - 1) / 4)


OPTIMIZERS = {
    "sgd": lambda m: torch.optim.SGD(two_groups(m), 0.05, momentum=0.9, nesterov=True),
    "adamw": lambda m: torch.optim.AdamW(two_groups(m), 0.01, weight_decay=0.1),
    "fused": lambda m: torch.optim.AdamW(two_groups(m), 0.01, fused=True),
    "foreach": lambda m: torch.optim.AdamW(two_groups(m), 0.01, foreach=True),
    "a tensor for a rate": lambda m: torch.optim.AdamW(two_groups(m), torch.tensor(0.01)),
    "schedule-free": lambda m: AdamWScheduleFree(two_groups(m), 0.01),
}


def by_hand(before, now, gradients):
    """Return agreement and cosine of tensors."""
    w = torch.cat([(n - b).flatten() for b, n in zip(before, now, strict=True)])
    g = torch.cat([g.flatten() for g in gradients])
    return (
        float(-(g * w).sum() / (g * w).abs().sum()),
        float(-(g @ w) / g.norm() / w.norm()),
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("small", [False, True], ids=["one bucket", "many buckets"])
def test_under_any_optimizer_clipping_and_accumulation_it_is_that_of_the_step(
    name, small, monkeypatch
):
    if small:
        monkeypatch.setattr(update_sums, "_BUCKET", 10)
    model = small_model()
    optimizer = OPTIMIZERS[name](model)
    if name == "schedule-free":
        optimizer.train()
    watch = UpdateAgreement(optimizer, Replicas())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = None
    for t in range(5):
        optimizer.zero_grad()
        for part in range(2):
            loss_at(model, t, part).backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        now = [p.detach().clone() for p in parameters]
        gradients = [p.grad.clone() for p in parameters]
        optimizer.step()
        newest = watch.read()
        assert newest.steps == min(t, 1)
        if before is not None:
            expected = by_hand(before, now, gradients)
            assert (newest.agreement, newest.cosine) == pytest.approx(expected, abs=1e-12)
        before = now


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscaled", [False, True])
def test_under_a_grad_scaler_only_steps_that_were_taken_count(fused, unscaled):
    def run(scaled):
        model = small_model().float()
        optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=fused)
        watch = UpdateAgreement(optimizer, Replicas())
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2, enabled=scaled)
        read = []
        for t in range(9):
            overflow = t in (0, 4)
            if overflow and not scaled:
                continue
            x, _ = batch(t, 0)
            optimizer.zero_grad()
            factor = math.inf if overflow else 1.0
            scaler.scale(factor * model(x.float()).square().mean()).backward()
            if unscaled:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            read.append(watch.read())
        return read

    plain, scaled = run(False), run(True)
    taken = [r for t, r in enumerate(scaled) if t not in (0, 4)]
    for k, (mine, theirs) in enumerate(zip(taken, plain, strict=True)):
        assert mine.finite
        # A fused optimizer keeps from the host that it skipped: the weights stood still, and
        # the step after gives no number.
        silent = fused and k in (0, 3)
        assert mine.known == (k > 0 and not silent)
        if mine.known:
            assert mine.agreement == pytest.approx(theirs.agreement, abs=1e-5)
            assert mine.cosine == pytest.approx(theirs.cosine, abs=1e-5)
    assert scaled[4].known is (not fused)


def test_every_optimizer_of_a_model_is_watched_for_itself():
    model = small_model()
    groups = two_groups(model)
    optimizers = [torch.optim.SGD(g["params"], 0.05) for g in groups]
    watches = [UpdateAgreement(o, Replicas()) for o in optimizers]
    snapshots, gradients = [], []
    for t in range(2):
        model.zero_grad()
        loss_at(model, t, 0).backward()
        snapshots.append([[p.detach().clone() for p in g["params"]] for g in groups])
        gradients = [[p.grad.clone() for p in g["params"]] for g in groups]
        for optimizer in optimizers:
            optimizer.step()
    for k, watch in enumerate(watches):
        expected = by_hand(snapshots[0][k], snapshots[1][k], gradients[k])
        assert watch.read().agreement == pytest.approx(expected[0], abs=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_is_watched_too():
    def run(compiled):
        model = small_model()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        watch = UpdateAgreement(optimizer, Replicas())
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        read = []
        for t in range(4):
            optimizer.zero_grad()
            loss_at(model, t, 0).backward()
            step()
            read.append(watch.read().agreement)
        watch.close()
        loss_at(model, 5, 0).backward()
        step()
        return read

    # Compiled, Adam corrects its moments in float32.
    assert run(True) == pytest.approx(run(False), abs=1e-5)


def _readings(step):
    """Return what was read in a run whose steps `step(optimizer, backward)` takes."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    watch, read = UpdateAgreement(optimizer, Replicas()), []

    def backward(t):
        optimizer.zero_grad()
        loss = loss_at(model, t, 0)
        loss.backward()
        return loss

    for t in range(5):
        step(optimizer, partial(backward, t))
        read.append(watch.read())
    return read


@pytest.mark.parametrize("by_name", [False, True])
def test_gradients_that_come_from_a_closure_are_those_of_the_step(by_name):
    def before(optimizer, backward):
        backward()
        optimizer.step()

    def inside(optimizer, backward):
        loss = optimizer.step(closure=backward) if by_name else optimizer.step(backward)
        assert loss.requires_grad

    expected = _readings(before)
    assert expected[-1].known
    assert _readings(inside) == expected


def test_it_goes_with_whoever_holds_it():
    problem = Problem()
    del problem.watch
    problem.a.grad = torch.ones_like(problem.a)
    problem.optimizer.step()
    assert problem.a.tolist() == pytest.approx([0.9, -2.1])


class NoWaiting(TorchDispatchMode):
    """Refuses whatever brings a value to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero"), func
        return func(*args, **(kwargs or {}))


def test_the_host_reads_no_value_at_a_step():
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = UpdateAgreement(optimizer, Replicas())
    for t in range(3):
        optimizer.zero_grad()
        loss_at(model, t, 0).backward()
        with NoWaiting():
            optimizer.step()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        float(watch._newest[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_host_never_waits_for_the_device_at_a_step(dtype, scaled):
    model = small_model().to("cuda", dtype)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    watch = UpdateAgreement(optimizer, Replicas())
    if scaled:
        optimizer.grad_scale = torch.full((), 4.0, device="cuda")  # pyright: ignore
        optimizer.found_inf = torch.zeros((), device="cuda")  # pyright: ignore
    x = batch(0, 0)[0].to("cuda", dtype)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert watch.read().known


def test_a_run_resumed_from_a_state_reads_the_same_to_the_last_bit():
    def step(model, optimizer, t):
        optimizer.zero_grad()
        loss_at(model, t, 0).backward()
        optimizer.step()

    def made():
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        return model, optimizer, UpdateAgreement(optimizer, Replicas())

    model, optimizer, watch = made()
    for t in range(4):
        step(model, optimizer, t)
    saved = watch.state_dict()
    twin, its_optimizer, its_watch = made()
    twin.load_state_dict(model.state_dict())
    its_watch.assign(its_watch.parsed(Entries(saved, "Explorer")))
    assert its_watch.read() == watch.read()
    step(model, optimizer, 4)
    step(twin, its_optimizer, 4)
    assert its_watch.read() == watch.read()
    assert its_watch.read().known


def test_a_state_of_another_model_is_refused():
    saved = Problem()
    saved.step([1.0, 1.0], [1.0])
    state = saved.watch.state_dict()
    model = small_model()
    watch = UpdateAgreement(torch.optim.SGD(model.parameters(), 0.1), Replicas())
    with pytest.raises(ValueError, match=r"previous.0.*must be of shape"):
        watch.parsed(Entries(state, "Explorer"))
    few = UpdateAgreement(torch.optim.SGD([saved.a], 0.1), Replicas())
    with pytest.raises(ValueError, match=r"entry `previous` = '1', which must be below 1"):
        few.parsed(Entries(state, "Explorer"))


def test_a_state_of_other_shards_is_dropped_with_a_warning(caplog):
    problem = Problem()
    for _ in range(2):
        problem.step([1.0, 1.0], [1.0])
    state = {**problem.watch.state_dict(), "shard": [2, 1]}
    problem.watch.assign(problem.watch.parsed(Entries(state, "Explorer")))
    assert "of other shards: dropped" in caplog.text
    assert problem.watch.read().steps == 0
    assert problem.step([1.0, 1.0], [1.0]).steps == 0
