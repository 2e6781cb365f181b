"""Delta-SGD: its rule by hand, its batch, and what is refused."""

import math

import pytest
import torch

from hdet.federated import DeltaSGD
from hdet.federated.delta_sgd import next_step

X = torch.tensor([3.0, 4.0], dtype=torch.float64)


def test_the_first_step_is_at_eta_zero():
    assert DeltaSGD(0.2).beta == 0.2


def test_a_curved_loss_sets_the_rate_at_once_and_a_flat_one_lets_it_rise():
    rate = DeltaSGD(0.2, gamma=2.0, delta=0.1)
    # |x_1 - x_0| = 5 and gradients 100 apart: 2 * 5 / (2 * 100).
    assert rate.update(X, 20 * X) == pytest.approx(0.05, rel=1e-12)
    # theta_1 = 0.05 / 0.2, and a smooth rate of 1 is above what may be risen to.
    second = 0.05 * math.sqrt(1 + 0.1 * 0.25)
    assert rate.update(X, X) == pytest.approx(second, rel=1e-12)
    third = second * math.sqrt(1 + 0.1 * second / 0.05)
    assert rate.update(X, X) == pytest.approx(third, rel=1e-12)
    assert rate.beta == pytest.approx(third, rel=1e-12)


def test_on_a_quadratic_the_rate_comes_to_one_over_the_curvature():
    curvature, weight, rate = 4.0, torch.tensor([1.0], dtype=torch.float64), DeltaSGD(0.01)
    step = rate.beta
    for _ in range(80):
        moved = -step * curvature * weight
        weight = weight + moved
        if float(moved) == 0:
            break
        step = rate.update(moved, curvature * moved)
    assert step == pytest.approx(1 / curvature, rel=1e-12)
    assert abs(float(weight)) < 1e-12


@pytest.mark.parametrize(("moved", "bent"), [(0 * X, X), (X, 0 * X), (0 * X, 0 * X)])
def test_where_nothing_is_learnt_of_the_curvature_the_rate_rises(moved, bent):
    rate = DeltaSGD(0.2)
    assert rate.update(moved, bent) == pytest.approx(0.2 * math.sqrt(1.1), rel=1e-12)


def test_a_batch_of_clients_is_each_client():
    draws = torch.Generator().manual_seed(1)
    moved, bent = torch.randn(2, 6, 40, generator=draws)
    eta = torch.rand(6, generator=draws, dtype=torch.float64)
    theta = torch.rand(6, generator=draws, dtype=torch.float64)
    together = next_step(eta, theta, moved, bent, 2.0, 0.1)
    for i in range(6):
        rate = DeltaSGD(float(eta[i]), theta=float(theta[i]))
        assert rate.update(moved[i], bent[i]) == pytest.approx(float(together[0][i]))
        assert float(together[1][i]) == pytest.approx(rate.beta / float(eta[i]))


@pytest.mark.parametrize(
    ("moved", "bent", "message"),
    [
        (X, torch.ones(3), r"update\(gradient_change=3\)` must have 2 entries"),
        (X, torch.tensor([math.nan, 1.0]), r"update\(gradient_change=.*not finite"),
        (torch.tensor([math.inf, 1.0]), X, r"update\(weight_change=.*not finite"),
        (X, "no numbers", r"update\(gradient_change=.*floating-point"),
    ],
)
def test_a_refused_update_changes_nothing(moved, bent, message):
    rate = DeltaSGD(0.2)
    with pytest.raises(ValueError, match=message):
        rate.update(moved, bent)
    assert rate.update(X, 20 * X) == pytest.approx(0.05, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta=0.0.*above 0"),
        ({"beta": 0.2, "gamma": 0.0}, "gamma=0.0.*above 0"),
        ({"beta": 0.2, "delta": -0.1}, "delta=-0.1.*at least 0"),
        ({"beta": 0.2, "theta": math.nan}, "theta=nan.*finite"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeltaSGD(**arguments)
