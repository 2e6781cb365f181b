"""Values of f alone lead down too, at a cost that is counted like everyone's."""

import math
import sys

import numpy as np
import pytest
import torch

from hdet.bilevel import NonFiniteError, Problem, Status, dfo_ls, finite_differences

from .problems import denoising, quadratic, start

F64 = torch.float64
METHODS = pytest.mark.parametrize("method", [dfo_ls, finite_differences])


def least(made):
    """Return the minimum of f of a quadratic by Newton's step, which is exact."""
    theta = torch.zeros(3, dtype=F64)
    hessian = torch.stack(
        [made.gradient(e) - made.gradient(theta) for e in torch.eye(3, dtype=F64)]
    )
    return float(made.f(theta - torch.linalg.solve(hessian, made.gradient(theta))))


def residuals(made):
    """Return x to what is squared and added up in f."""
    return lambda x: (made.a1 @ x - made.b1) / 2**0.5


@METHODS
def test_a_quadratic_is_led_to_its_minimum(method):
    made, (theta, x0) = quadratic(rows=40, size=3, seed=2), start(3)
    more = {"residuals": residuals(made)} if method is dfo_ls else {}
    result = method(made.problem, theta, x0, accuracy=1e-8, max_steps=500, **more)
    assert result.status is Status.ENDED
    assert float(made.f(result.theta)) == pytest.approx(least(made), rel=1e-2)
    values = [step.value for step in result.history]
    assert values == sorted(values, reverse=True)
    assert result.value == values[-1]
    assert math.isnan(result.history[0].norm)


def test_residuals_tell_dfo_ls_more_than_their_sum():
    made, (theta, x0) = quadratic(rows=40, size=3, seed=2), start(3)
    given = {"accuracy": 1e-8, "max_steps": 30}
    plain = dfo_ls(made.problem, theta, x0, **given)
    told = dfo_ls(made.problem, theta, x0, residuals=residuals(made), **given)
    assert float(made.f(told.theta)) < float(made.f(plain.theta)) < float(made.f(theta))


@METHODS
def test_the_budget_is_kept_and_the_best_point_is_returned(method):
    problem, theta, noisy = denoising()
    steps = []
    result = method(
        problem,
        theta,
        noisy,
        accuracy=1e-4,
        budget=60,
        max_steps=10_000,
        callback=lambda step, state: steps.append((step, state)),
    )
    assert result.status is Status.BUDGET
    assert result.counts.cost == 60
    assert [step for step, _ in steps] == result.history
    assert all(state == {} for _, state in steps)
    assert result.value == min(step.value for step in result.history)
    assert result.history[-1].bound >= result.value


@METHODS
def test_evaluations_are_limited_and_repeat_exactly(method):
    problem, theta, noisy = denoising()
    runs = [method(problem, theta, noisy, accuracy=1e-3, max_steps=4) for _ in range(2)]
    assert runs[0].status is Status.MAX_STEPS
    assert runs[0].history[-1].trials <= 4
    assert [step.value for step in runs[0].history] == [step.value for step in runs[1].history]


@METHODS
def test_the_global_generators_are_left_alone(method):
    problem, theta, noisy = denoising()
    before = torch.get_rng_state().clone(), str(np.random.get_state())  # noqa: NPY002
    method(problem, theta, noisy, accuracy=1e-3, max_steps=6)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())  # noqa: NPY002


def vanishing():
    """Return a problem whose lower level is finite up to theta = 1 only, where f is least."""
    return Problem(
        lambda x: x.square().sum(),
        lambda x, theta: (x - (1 - theta).sqrt()).square().sum() / 2,
        mu=1.0,
    )


@METHODS
def test_where_h_is_not_finite_f_is_not_lower(method):
    theta, x0 = torch.full((1,), 0.8, dtype=F64), torch.ones(1, dtype=F64)
    result = method(vanishing(), theta, x0, accuracy=1e-6, max_steps=50)
    assert 0 <= result.value < 0.2
    assert float(result.theta) <= 1


@METHODS
def test_a_start_that_is_not_finite_is_an_error(method):
    theta, x0 = torch.full((1,), 2.0, dtype=F64), torch.ones(1, dtype=F64)
    with pytest.raises(NonFiniteError, match=r"not finite at theta=\[2.0\]"):
        method(vanishing(), theta, x0, accuracy=1e-6)


@METHODS
def test_a_solver_that_falls_short_is_said(method):
    problem, theta, noisy = denoising()
    result = method(problem, theta, noisy, accuracy=1e-9, max_iterations=1, max_steps=4)
    assert result.status is Status.LOWER_LEVEL


@METHODS
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"accuracy": 0.0}, r"accuracy=0.0\)` must be finite and above 0"),
        ({"max_steps": 0}, r"max_steps=0\)` must be a whole number of at least 1"),
        ({"budget": 0}, r"budget=0\)` must be a whole number of at least 1"),
        ({"solver": "adam"}, r"solver='adam'\)` must be \"newton-cg\""),
    ],
)
def test_bad_arguments_are_refused(method, given, words):
    made, (theta, x0) = quadratic(), start()
    with pytest.raises(ValueError, match=words):
        method(made.problem, theta, x0, **{"accuracy": 1e-3, **given})


def test_dfo_ls_refuses_what_is_no_sum_of_squares():
    made, (theta, x0) = quadratic(), start()
    problem = Problem(lambda x: x.sum() - 1e6, made.problem.lower, mu=made.problem.mu)
    with pytest.raises(ValueError, match="must not be negative.*or use finite_differences"):
        dfo_ls(problem, theta, x0, accuracy=1e-3)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dfols", None)
    made, (theta, x0) = quadratic(), start()
    with pytest.raises(ImportError, match="`dfo_ls` needs the package DFO-LS: pip install"):
        dfo_ls(made.problem, theta, x0, accuracy=1e-3)
