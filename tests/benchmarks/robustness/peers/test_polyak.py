"""ScheduleFree+ against two steps by hand."""

import math

import pytest
import torch

from benchmarks.robustness.peers.polyak import ScheduleFreePlus

ROOT = math.sqrt(math.pi / 2)


def test_two_steps_by_hand():
    """The loss is 3 x^2 from x = 2, so g = 6 x, with weight decay 0.1 and no held average."""
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    own = {"betas": (0.5, 0.75), "momentum": (0.9, 0.965), "weight_decay": 0.1, "eps": 1e-12}
    optimizer = ScheduleFreePlus([weight], anneal_steps=4, hold_steps=0, lr=0.5, **own)

    def step():
        weight.grad = None
        loss = 3 * weight.square().sum()
        loss.backward()
        optimizer.step(lambda: float(loss.detach()))

    # First: z = x, so the Polyak step is f / (sqrt(pi / 2) |g|); Adam's direction is 1.
    a = 0.5 * 12 / (ROOT * 12)
    z = 2 - a**2 * 0.1 * 2 - a
    x = z  # its weight is all of the sum
    step()
    assert float(weight.detach()) == pytest.approx(z)
    assert optimizer.param_groups[0]["scheduled_lr"] == pytest.approx(a)
    # Second: y is at x = z. A quarter of the way from 0.9 to 0.965, in log(1 - b).
    b = 1 - 0.1**0.75 * 0.035**0.25
    f, g = 3 * z**2, 6 * z
    second = 0.5 * f / (ROOT * g)
    m = (0.5 * (0.5 * 12) + 0.5 * g) / (1 - 0.5**2)
    v = (0.75 * (0.25 * 144) + 0.25 * g**2) / (1 - 0.75**2)
    new = z - second**2 * 0.1 * z - second * m / math.sqrt(v)
    greatest = max(a, second)
    c = greatest**2 / (a**2 + greatest**2)
    x = x + c * (new - x)
    step()
    assert float(weight.detach()) == pytest.approx(b * x + (1 - b) * new)
    optimizer.eval()
    assert float(weight.detach()) == pytest.approx(x)
    with pytest.raises(RuntimeError, match=r"call train\(\) first"):
        step()
    optimizer.train()
    assert float(weight.detach()) == pytest.approx(b * x + (1 - b) * new)
    # Third: z is not x, and the inner product counts; below 0 there is no step.
    weight.grad = torch.full_like(weight, -1000.0 if new > x else 1000.0)
    optimizer.step(lambda: 0.0)
    assert optimizer.param_groups[0]["scheduled_lr"] == 0.0


def test_the_average_is_held_at_z_for_the_first_steps():
    weight = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
    optimizer = ScheduleFreePlus([weight], anneal_steps=10, hold_steps=3)
    apart = []
    for _ in range(6):
        weight.grad = weight.detach().clone()
        optimizer.step(lambda: float(0.5 * weight.detach().square().sum()))
        state = optimizer.state[weight]
        apart.append(bool((state["z"] - state["x"]).abs().max() > 0))
    # The first that counts has all the weight.
    assert apart == [False] * 4 + [True] * 2


def test_zero_gradients_are_no_step():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = ScheduleFreePlus([weight], anneal_steps=10, hold_steps=0)
    weight.grad = torch.zeros(2)
    optimizer.step(lambda: 1.0)
    torch.testing.assert_close(weight.detach(), torch.ones(2))
