import pytest
import torch

from hdet.replica.stepping import Stepping
from tests.helpers import loss_at, small_model


def made(fused=False):
    model = small_model().float()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=fused)
    return model, optimizer, Stepping(optimizer, "Explorer")


def test_a_scheduler_that_is_stepped_once_per_process_is_noticed():
    _, optimizer, stepping = made()
    for _ in range(3):
        optimizer.step()
        stepping.took_place()
        stepping.took_place()
    optimizer.step()
    stepping.took_place()
    with pytest.raises(RuntimeError, match="step_scheduler_with_optimizer=False"):
        stepping.took_place()


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
