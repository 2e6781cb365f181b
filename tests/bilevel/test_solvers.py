"""Every solver comes as near as it was asked to, and says where it does not."""

import pytest
import torch

from hdet.bilevel import CurvatureError
from hdet.bilevel.linear import Ending
from hdet.bilevel.oracle import Oracle
from hdet.bilevel.solvers import SOLVERS

from .problems import denoising, quadratic, start

EACH = pytest.mark.parametrize("name", SOLVERS)


@EACH
@pytest.mark.parametrize("accuracy", [1.0, 1e-2, 1e-8])
def test_the_solution_is_as_near_as_asked(name, accuracy):
    made = quadratic()
    theta, x0 = start()
    oracle = Oracle(made.problem, theta, x0, "test")
    mu = oracle.mu(theta)
    found = SOLVERS[name](oracle, theta, x0[None], accuracy, mu, 10_000)
    distance = float((found.x[0] - made.x(theta)).norm())
    assert found.ending is Ending.MET
    assert distance <= float(found.accuracy.max()) * (1 + 1e-6)
    assert float(found.accuracy.max()) <= accuracy


@EACH
def test_each_sample_is_solved_as_it_would_be_alone(name):
    problem, theta, noisy = denoising()
    oracle = Oracle(problem, theta, noisy, "test")
    found = SOLVERS[name](oracle, theta, noisy, 1e-9, 1.0, 10_000)
    assert found.ending is Ending.MET
    exact = SOLVERS["newton-cg"](oracle, theta, torch.zeros_like(noisy), 1e-11, 1.0, 100)
    torch.testing.assert_close(found.x, exact.x, atol=2e-9, rtol=0)


@EACH
def test_a_start_that_is_good_enough_costs_one_gradient(name):
    made = quadratic()
    theta, x0 = start()
    oracle = Oracle(made.problem, theta, x0, "test")
    SOLVERS[name](oracle, theta, made.x(theta)[None], 1e-3, oracle.mu(theta), 100)
    assert oracle.counts.cost == oracle.counts.gradients == 1


@EACH
def test_iterations_that_do_not_suffice_are_told(name):
    problem, theta, noisy = denoising()
    oracle = Oracle(problem, theta, noisy, "test")
    found = SOLVERS[name](oracle, theta, noisy, 1e-12, 1.0, 1)
    assert found.ending is Ending.ITERATIONS
    assert float(found.accuracy.max()) > 1e-12


@EACH
def test_single_precision_ends_at_its_floor(name):
    problem, theta, noisy = denoising()
    theta, noisy = theta.float(), noisy.float()
    oracle = Oracle(problem, theta, noisy, "test")
    found = SOLVERS[name](oracle, theta, noisy, 1e-12, 1.0, 10_000)
    assert found.ending is Ending.FLOOR
    assert 1e-12 < float(found.accuracy.max()) < 1e-3


def test_the_momentum_is_really_there():
    # Condition 10,000: plain gradient descent needs tens of thousands of steps.
    scales = torch.logspace(0, 4, 30, dtype=torch.float64)

    from hdet.bilevel import Problem

    problem = Problem(
        lambda x: x.sum(),
        lambda x, theta: (scales * (x - theta).square()).sum() / 2,
        mu=1.0,
    )
    theta, x0 = torch.ones(30, dtype=torch.float64), torch.zeros(30, dtype=torch.float64)
    oracle = Oracle(problem, theta, x0, "test")
    found = SOLVERS["accelerated-gradient"](oracle, theta, x0[None], 1e-6, 1.0, 100_000)
    assert found.ending is Ending.MET
    assert found.iterations < 2500


def test_a_mu_that_is_too_large_is_found_out():
    made = quadratic(mu=1e3)
    theta, x0 = start()
    oracle = Oracle(made.problem, theta, x0, "test")
    with pytest.raises(CurvatureError, match=r"mu=1000\)` is contradicted"):
        SOLVERS["newton-cg"](oracle, theta, x0[None], 1e-6, 1e3, 100)
