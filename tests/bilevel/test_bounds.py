"""What an inexact solution makes certain of f is certain."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.bilevel import Problem
from hdet.bilevel.bounds import Constants, lower_bound, upper_bound
from hdet.bilevel.oracle import Oracle, norms

from .problems import quadratic, start

F64 = torch.float64


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 20),
    st.floats(-8, 1),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_the_bounds_hold_f_between_them(seed, exponent, direction, convex):
    made = quadratic(seed=seed)
    theta, x0 = start()
    source = torch.Generator().manual_seed(direction)
    off = torch.randn(x0.shape, generator=source, dtype=F64)
    x = made.x(theta) + 10**exponent * off / off.norm()
    oracle = Oracle(made.problem, theta, x0, "test")
    flat_theta, flat_x = oracle.flat_theta(theta), oracle.flat_x(x)
    mu = oracle.mu(flat_theta)
    accuracy = norms(oracle.lower(flat_x, flat_theta)[1]) / mu
    value, gradient = oracle.upper(flat_x)
    smooth = Constants(oracle).smoothness
    given = value, norms(gradient), accuracy, smooth
    exact, noise = float(made.f(theta)), 1e-12 * float(value)
    assert float(accuracy) >= 10**exponent * (1 - 1e-6)
    assert lower_bound(*given, convex) - noise <= exact <= upper_bound(*given) + noise


def test_a_convex_g_has_the_tighter_lower_bound():
    value, slope, accuracy = (torch.full((2,), number) for number in (3.0, 1.0, 0.5))
    assert lower_bound(value, slope, accuracy, 4.0, True) == pytest.approx(2.5)
    assert lower_bound(value, slope, accuracy, 4.0, False) == pytest.approx(2.0)
    assert upper_bound(value, slope, accuracy, 4.0) == pytest.approx(4.0)


def test_an_unknown_smoothness_is_that_of_the_curvature_and_never_falls():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=F64))
    problem = Problem(
        lambda x: (x @ matrix @ x) / 2 + (3 * x[0]).sin(),
        lambda x, theta: (x - theta).square().sum() / 2,
        mu=1.0,
    )
    theta = torch.zeros(3, dtype=F64)
    oracle = Oracle(problem, theta, theta, "test")
    constants = Constants(oracle)
    # There the curvature of the first coordinate is 1 - 9 sin(3 x), which is 10.
    constants.see(torch.tensor([[-math.pi / 6, 0.0, 0.0]], dtype=F64), theta)
    assert constants.smoothness == pytest.approx(10.0, rel=0.05)
    before = constants.smoothness
    constants.see(torch.zeros(1, 3, dtype=F64), theta)
    assert constants.smoothness == before
    assert oracle.counts.cost == 0


def test_a_smoothness_that_was_given_is_taken():
    made, (theta, x0) = quadratic(upper_smoothness=7.0), start()
    oracle = Oracle(made.problem, theta, x0, "test")
    constants = Constants(oracle)
    constants.see(oracle.flat_x(x0), theta)
    assert constants.smoothness == 7.0


def test_the_jacobians_norm_is_found_to_a_percent_and_never_below():
    made, (theta, x0) = quadratic(jacobian_norm=None), start()
    oracle = Oracle(made.problem, theta, x0, "test")
    flat, one = oracle.flat_x(x0), torch.ones(1, dtype=F64)
    # |J| is all of omega where eps and |grad g| are 0, and delta and mu are 1.
    found = Constants(oracle).omega(theta, flat, 0 * one, 0 * one, one, 1.0)
    true = float(torch.linalg.matrix_norm(made.a2.T @ made.a3, 2))
    assert true <= found <= 1.03 * true


def test_the_norm_of_a_jacobian_that_vanishes_is_zero():
    problem = Problem(
        lambda x: x.sum(),
        lambda x, theta: (theta.exp() * x.square()).sum() / 2,
        mu=1.0,
        upper_smoothness=0.0,
        inverse_hessian_lipschitz=0.0,
        jacobian_lipschitz=1.0,
    )
    theta = torch.zeros(2, dtype=F64)
    oracle, one = Oracle(problem, theta, theta, "test"), torch.ones(1, dtype=F64)
    # J = diag(exp(theta) x), at x = 0.
    assert Constants(oracle).omega(theta, theta[None], 0 * one, 0 * one, one, 1.0) == 0
