import sys
import types
import warnings

import pytest
import torch

import hdet
from hdet.replica.ensemble.stepping import Stepping
from tests.helpers import loss_at, small_model


def made(fused=False):
    model = small_model().float()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=fused)
    return model, optimizer, Stepping(optimizer, "Explorer")


class AcceleratedScheduler:
    """Calls what it wraps as Accelerate's does, in a run of two processes."""

    def __init__(self, stepping):
        self.scheduler = stepping

    def step(self):
        for _ in range(2):
            self.scheduler.took_place()


def test_a_scheduler_that_is_stepped_once_per_process_is_refused_with_the_remedy():
    _, optimizer, stepping = made()
    prepared = AcceleratedScheduler(stepping)
    for _ in range(3):
        optimizer.step()
        prepared.step()
    optimizer.step()
    with pytest.raises(RuntimeError, match="step_scheduler_with_optimizer=False") as error:
        prepared.step()
    assert "`prepare()` leaves it alone, so do not wrap it yourself" in str(error.value)
    assert "micro-batch" not in str(error.value)


def test_a_scheduler_that_is_stepped_at_every_micro_batch_is_refused_with_the_remedy():
    _, optimizer, stepping = made()
    for _ in range(3):
        stepping.took_place()
        optimizer.step()
        stepping.took_place()
    stepping.took_place()
    optimizer.step()
    stepping.took_place()
    with pytest.raises(RuntimeError, match="only where the optimizer really steps") as error:
        stepping.took_place()
    assert "`scheduler.observe(loss)` for every micro-batch" in str(error.value)
    assert "once per process" not in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: hdet.Explorer(o, lambda step: 0.5**step),
        lambda o: hdet.OneCycleAutoLR(o, 0.1, 10, ensemble_lr_spread_ratio=0),
    ],
)
def test_a_micro_batch_of_accelerates_is_no_step(make, monkeypatch):
    class GradientState:
        _shared_state = {"sync_gradients": False}

    model = small_model()
    scheduler = make(torch.optim.AdamW(model.parameters(), 0.1))
    scheduler.optimizer.step()
    rates = scheduler.get_last_lr()
    module = types.SimpleNamespace(GradientState=GradientState)
    monkeypatch.setitem(sys.modules, "accelerate.state", module)
    scheduler.step(2.0)
    assert scheduler.get_last_lr() == rates
    assert scheduler._ensemble.meter.sums() == [2.0, 1]
    GradientState._shared_state["sync_gradients"] = True
    scheduler.step(1.0)
    assert scheduler.get_last_lr() != rates


def test_one_call_an_epoch_is_a_warning_at_once_and_then_an_error():
    _, optimizer, stepping = made()
    for epoch in range(3):
        for _ in range(30):
            optimizer.step()
        if epoch == 0:
            with pytest.warns(UserWarning, match="called once for 30 steps of the optimizer"):
                stepping.took_place()
        elif epoch == 1:
            stepping.took_place()
        else:
            with pytest.raises(RuntimeError, match="once for 30 steps.*not epochs") as error:
                stepping.took_place()
            assert "Call it after every `optimizer.step()`" in str(error.value)


def test_steps_before_the_first_call_are_said_once_and_no_error():
    _, optimizer, stepping = made()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in range(12):
            optimizer.step()
            if t % 4 == 0:  # not in a row
                optimizer.step()
            assert stepping.took_place()
    assert len(caught) == 1


def test_a_step_of_the_optimizer_counts_once():
    _, optimizer, stepping = made()
    done = [False, False, True, False, True, True, False, True] * 5
    seen = []
    for step in done:
        if step:
            optimizer.step()
        seen.append(stepping.took_place())
    assert seen == done


@pytest.mark.parametrize("fused", [False, True])
def test_what_a_grad_scaler_skips_does_not_count(fused):
    model, optimizer, stepping = made(fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
    seen, moved = [], []
    for t in range(12):
        factor = float("inf") if t % 4 == 1 else 1.0
        before = next(model.parameters()).detach().clone()
        optimizer.zero_grad()
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(t))
        scaler.scale(factor * model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        seen.append(stepping.took_place())
        moved.append(not torch.equal(before, next(model.parameters())))
    assert seen == moved == [t % 4 != 1 for t in range(12)]


def test_what_the_caller_says_is_believed():
    _, optimizer, stepping = made()
    assert stepping.took_place(skipped=False)
    optimizer.step()
    assert not stepping.took_place(skipped=True)
    optimizer.step()
    assert stepping.took_place()


def test_an_optimizer_that_is_never_seen_to_step_is_an_error_with_the_remedy():
    _, _, stepping = made()
    for _ in range(99):
        assert not stepping.took_place()
    with pytest.raises(RuntimeError, match=r"100 times in a row.*step\(loss, skipped=False\)"):
        stepping.took_place()


def test_a_captured_graph_is_never_taken_for_a_skip_if_told():
    _, _, stepping = made()
    assert all(stepping.took_place(skipped=False) for _ in range(300))


def test_loading_forgets_what_was_seen():
    model, optimizer, stepping = made()
    loss_at(model.double(), 0, 0).backward()
    optimizer.step()
    stepping.forget()
    assert not stepping.took_place()
