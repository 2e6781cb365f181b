"""CDAT: the curvature by hand, one step by hand, and models with attention."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.robustness.peers.curvature import CdatRule, cdat, curvature
from benchmarks.robustness.problems import load, new_model
from tests.benchmarks.robustness.peers.common import Quadratic, problem


class Bowl(Quadratic):
    """Half of the square with curvatures 1, 2 and 4."""

    def loss(self, model, batch):
        weights = torch.tensor([1.0, 2.0, 4.0])
        return 0.5 * (weights * (model(batch[0]) - 1).square()).sum(dim=1).mean()


def test_curvature_of_a_quadratic():
    model = new_model(Bowl(), 0)
    along = [torch.tensor([[1.0], [-2.0], [3.0]])]
    assert curvature(Bowl(), model, Bowl().batch(0, 0, 0, 1), along) == pytest.approx(45.0)
    assert all(p.grad is None for p in model.parameters())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.unused = nn.Linear(4, 12), nn.Linear(2, 2)

    def forward(self, x):
        q, k, v = self.inner(x).unsqueeze(1).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).square().sum()


def test_curvature_of_attention_and_of_weights_without_a_part_in_the_loss():
    torch.manual_seed(0)

    class Attending(Quadratic):
        def loss(self, model, batch):
            return model(batch[0])

    model, batch = Attention().double(), (torch.randn(2, 5, 4, dtype=torch.float64),)
    along = [torch.randn_like(p) for p in model.parameters()]
    found = curvature(Attending(), model, batch, along)

    def loss_at(t):
        moved = {
            name: p.detach() + t * u
            for (name, p), u in zip(model.named_parameters(), along, strict=True)
        }
        return float(torch.func.functional_call(model, moved, batch))

    h = 1e-4
    second = (loss_at(h) - 2 * loss_at(0.0) + loss_at(-h)) / h**2
    assert found == pytest.approx(second, rel=1e-4)


def test_the_rule_by_hand():
    rule = CdatRule()
    assert rule.rate(-3.0, 6.0) == pytest.approx(2 * 3 / 6)
    # Averages of weight 0.99: what was 3 and 6 now has 0.99 to the 0.01 of 0 and 2.
    assert rule.rate(5.0, -2.0) == pytest.approx(2 * 0.99 * 3 / (0.99 * 6 + 2))


def test_the_first_steps_of_sgd_by_hand():
    """With u = -g, <g, u> = -|g|^2, and at sigma 2 the rate is 2 |g|^2 / g'Hg."""
    asked = problem("sgd", 2, "quadratic")
    model = new_model(Bowl(), 0)
    away = (next(model.parameters()).detach() - 1).squeeze(1).double()
    h = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    g = h * away
    n, d = float(g @ g), float(g @ (h * g))
    first = 2 * n / d
    after = away - first * g
    # Momentum 0.9: the second update for a rate of 1.
    u = -(0.9 * g + h * after)
    slope, curved = float((h * after) @ u), float(u @ (h * u))
    second = 2 * (0.99 * n + max(-slope, 0.0)) / (0.99 * d + curved)
    outcome = cdat(asked, Bowl(), 0.0, 0)
    assert outcome.lrs == pytest.approx([first, second], rel=1e-5)
    end = after + second * u
    assert outcome.held_out == pytest.approx(float(0.5 * (h * end.square()).sum()), rel=1e-4)
    assert outcome.forwards == 2 * 9


def test_at_sigma_two_a_step_ends_level_with_its_start():
    """On a quadratic, without momentum's part in the first step."""
    outcome = cdat(problem("sgd", 1, "quadratic"), Bowl(), 0.0, 0)
    assert outcome.held_out == pytest.approx(outcome.initial, rel=1e-5)


def test_adamw_trains(request):
    asked = problem("adamw", 60)
    outcome = cdat(asked, load(asked), 0.0, 0)
    assert outcome.held_out < 0.7 * outcome.initial
