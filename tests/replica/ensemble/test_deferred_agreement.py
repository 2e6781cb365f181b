import math

import pytest
import torch
from torch import nn

from hdet.replica.ensemble.deferred_agreement import DeferredAgreement
from hdet.replica.ensemble.groups import Replicas
from hdet.state import Entries
from tests.helpers import loss_at, small_model, two_groups


class Problem:
    """Two parameters whose gradients are given, under plain gradient descent."""

    def __init__(self, dtype=torch.float64, lr=0.1, **settings):
        self.a = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
        self.b = nn.Parameter(torch.tensor([0.5], dtype=dtype))
        self.optimizer = torch.optim.SGD([self.a, self.b], lr=lr, **settings)
        self.watch = DeferredAgreement(self.optimizer, Replicas())

    def step(self, a, b):
        for p, gradient in ((self.a, a), (self.b, b)):
            p.grad = None if gradient is None else torch.tensor(gradient).to(p)
        self.optimizer.step()

    def move(self, *steps):
        self.watch.mark()
        for gradients in steps:
            self.step(*gradients)
        self.watch.displace()


def test_the_cosine_is_that_of_the_displacement_and_later_gradients_computed_by_hand():
    problem = Problem()
    problem.move(([2.0, -1.0], [4.0]), ([1.0, 1.0], [0.0]))  # u = -0.1 (3, 0, 4)
    problem.step([9.0, 9.0], [9.0])  # nobody looks
    problem.watch.score()
    problem.step([1.0, 5.0], [1.0])
    problem.step([0.0, 2.0], [-1.0])
    read = problem.watch.read()
    signed = (3 + 4) - 4
    gradients, moved = (1 + 25 + 1) + (4 + 1), 2 * 25
    assert read.cosine == pytest.approx(signed / math.sqrt(gradients * moved), abs=1e-12)
    assert read.agreement == pytest.approx(signed / (3 + 4 + 4), abs=1e-12)
    assert (read.known, read.finite, read.steps) == (True, True, 2)


def test_reading_changes_nothing_and_a_new_score_begins_at_zero():
    problem = Problem()
    problem.move(([1.0, 0.0], [0.0]))
    problem.watch.score()
    problem.step([1.0, 0.0], [0.0])
    assert problem.watch.read() == problem.watch.read()
    assert problem.watch.read().cosine == pytest.approx(1)
    problem.watch.score()
    assert not problem.watch.read().known
    problem.step([-2.0, 0.0], [0.0])
    assert problem.watch.read().cosine == pytest.approx(-1)


def test_nothing_is_known_before_a_displacement_after_forgetting_and_once_closed():
    problem = Problem()
    problem.watch.score()
    problem.step([1.0, 1.0], [1.0])
    assert problem.watch.read().steps == 0
    problem.move(([1.0, 1.0], [1.0]))
    problem.watch.score()
    problem.watch.forget()
    problem.step([1.0, 1.0], [1.0])
    assert problem.watch.read().steps == 0
    problem.move(([1.0, 1.0], [1.0]))
    problem.watch.score()
    problem.watch.close()
    problem.step([1.0, 1.0], [1.0])
    assert problem.watch.read().steps == 0
    assert problem.watch.state_dict()["held"] == {}


def test_weights_that_stood_still_tell_nothing():
    problem = Problem(lr=0.0)
    problem.move(([1.0, 1.0], [1.0]))
    problem.watch.score()
    problem.step([1.0, 1.0], [1.0])
    read = problem.watch.read()
    assert (read.known, read.finite, read.cosine) == (False, True, 0.0)


def test_an_optimizer_that_climbs_agrees_with_the_gradient_itself():
    problem = Problem(maximize=True)
    problem.move(([1.0, 1.0], [1.0]))
    problem.watch.score()
    problem.step([1.0, 1.0], [1.0])
    assert problem.watch.read().cosine == pytest.approx(1)


def test_what_is_frozen_or_has_no_gradient_is_left_out():
    problem = Problem()
    problem.b.requires_grad_(False)
    problem.move(([3.0, 0.0], None))
    problem.b.requires_grad_(True)
    problem.watch.score()
    problem.step([1.0, 0.0], [100.0])
    assert problem.watch.read().cosine == pytest.approx(1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_said_and_no_number_given(value):
    problem = Problem()
    problem.move(([1.0, 1.0], [1.0]))
    problem.watch.score()
    problem.step([1.0, value], [1.0])
    read = problem.watch.read()
    assert (read.known, read.finite, read.cosine) == (False, False, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_products_too_small_for_half_precision_count(dtype):
    problem = Problem(dtype, lr=1.0)
    with torch.no_grad():
        problem.a.fill_(1e-3)
        problem.b.fill_(1e-3)
    problem.move(([1e-5, 1e-5], [1e-5]))
    problem.watch.score()
    # Their products, 1e-10, are zero in float16.
    problem.step([1e-5, 1e-5], [-1e-5])
    assert problem.watch.read().cosine == pytest.approx(1 / 3, abs=1e-2)


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_grad_scaler_only_steps_that_were_taken_count(fused):
    def run(scaled):
        model = small_model().float()
        optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=fused)
        watch = DeferredAgreement(optimizer, Replicas())
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaled)
        watch.mark()
        for t in range(6):
            if t == 2:
                watch.displace()
                watch.score()
            overflow = t == 3
            if overflow and not scaled:
                continue
            optimizer.zero_grad()
            x = torch.full((4, next(model.parameters()).shape[1]), 0.1 * (t + 1))
            factor = math.inf if overflow else 1.0
            scaler.scale(factor * model(x).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        return watch.read()

    plain, scaled = run(False), run(True)
    assert scaled.finite
    assert scaled.steps == plain.steps == 3
    assert scaled.cosine == pytest.approx(plain.cosine, abs=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_never_waits_for_the_device_at_a_step():
    model = small_model().to("cuda", torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    watch = DeferredAgreement(optimizer, Replicas())
    x = torch.ones(4, next(model.parameters()).shape[1], device="cuda")

    def step():
        optimizer.zero_grad()
        model(x).square().mean().backward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    watch.mark()
    step()
    watch.displace()
    watch.score()
    step()
    assert watch.read().known


def made():
    model = small_model()
    optimizer = torch.optim.SGD(two_groups(model), 0.05)
    return model, optimizer, DeferredAgreement(optimizer, Replicas())


def step(model, optimizer, t):
    optimizer.zero_grad()
    loss_at(model, t, 0).backward()
    optimizer.step()


@pytest.mark.parametrize("phase", ["moving", "waiting", "scoring"])
def test_a_run_resumed_in_any_phase_reads_the_same_to_the_last_bit(phase):
    acts = {2: "moving", 4: "waiting", 6: "scoring"}

    def act(watch, t):
        {2: watch.mark, 4: watch.displace, 6: watch.score}.get(t, lambda: None)()

    model, optimizer, watch = made()
    stop = next(t for t, name in acts.items() if name == phase) + 1
    for t in range(stop):
        act(watch, t)
        step(model, optimizer, t)
    saved = watch.state_dict()
    twin, its_optimizer, its_watch = made()
    twin.load_state_dict(model.state_dict())
    parsed = its_watch.parsed(Entries(saved, "Explorer"))
    assert parsed is not None
    its_watch.assign(parsed)
    for t in range(stop, 9):
        for one, of, by in ((model, optimizer, watch), (twin, its_optimizer, its_watch)):
            act(by, t)
            step(one, of, t)
    assert watch.read().known
    assert its_watch.read() == watch.read()


def test_a_state_of_another_model_is_refused():
    saved = Problem()
    saved.watch.mark()
    state = saved.watch.state_dict()
    _, _, watch = made()
    with pytest.raises(ValueError, match=r"held.0.*must be of shape"):
        watch.parsed(Entries(state, "Explorer"))
    few = DeferredAgreement(torch.optim.SGD([saved.a], 0.1), Replicas())
    with pytest.raises(ValueError, match=r"entry `held` = '1', which must be below 1"):
        few.parsed(Entries(state, "Explorer"))


def test_a_state_of_other_shards_is_dropped_with_a_warning(caplog):
    problem = Problem()
    problem.move(([1.0, 1.0], [1.0]))
    state = {**problem.watch.state_dict(), "shard": [2, 1]}
    assert problem.watch.parsed(Entries(state, "Explorer")) is None
    assert "of other shards: dropped" in caplog.text
