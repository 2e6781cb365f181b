"""What a level returns, and depends on, is checked where a run begins; NaN is named."""

import math
from typing import Any

import pytest
import torch

from hdet.bilevel import (
    NonFiniteError,
    Problem,
    Rules,
    dfo_ls,
    finite_differences,
    fixed_accuracy,
    hoag,
    hypergradient,
    maid,
)

F64 = torch.float64
METHODS = {
    "maid": maid,
    "hoag": hoag,
    "fixed_accuracy": fixed_accuracy,
    "dfo_ls": lambda *levels: dfo_ls(*levels, accuracy=1e-3),
    "finite_differences": lambda *levels: finite_differences(*levels, accuracy=1e-3),
    "hypergradient": lambda *levels: hypergradient(*levels, accuracy=1e-3),
}
EACH = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def lower(x, theta):
    """Return h, whose solution is x = theta."""
    return (x - theta).square().sum() / 2


def upper(x):
    return (x - 3).square().sum() / 2


def points():
    return torch.ones(2, dtype=F64), torch.zeros(2, dtype=F64)


def half_used(x, theta):
    return (x - theta["used"]).square().sum() / 2 + theta["rest"][0].sum()


@EACH
@pytest.mark.parametrize(
    ("level", "theta", "name"),
    [
        (lambda x, theta: (x - 1).square().sum() / 2, torch.ones(2, dtype=F64), "theta0?"),
        (lambda x, theta: lower(x, theta.detach()), torch.ones(2, dtype=F64), "theta0?"),
        (
            half_used,
            {"used": torch.ones(2, dtype=F64), "rest": [torch.ones(1, 3, dtype=F64)]},
            r"theta0?\['rest'\]\[0\]:",
        ),
    ],
    ids=["nothing", "detached", "a leaf"],
)
def test_a_theta_that_nothing_depends_on_is_an_error_that_names_it(method, level, theta, name):
    problem = Problem(upper, level, mu=1.0)
    with pytest.raises(ValueError, match=rf"Problem\(lower=...\)` .* depend on {name}"):
        method(problem, theta, points()[1])


@EACH
def test_an_upper_level_that_does_not_look_at_x_is_an_error(method):
    problem = Problem(lambda x: torch.ones((), dtype=F64), lower, mu=1.0)
    with pytest.raises(ValueError, match=r"Problem\(upper=...\)` does not depend on x"):
        method(problem, *points())


def test_the_upper_level_need_not_look_at_all_of_x_nor_the_lower_with_a_ridge():
    theta, x = points()
    problem = Problem(
        lambda x: upper(x["seen"]),
        lambda x, theta: lower(x["seen"], theta) + lower(x["other"], theta),
        mu=1.0,
    )
    found = hypergradient(problem, theta, {"seen": x, "other": x}, accuracy=1e-9)
    torch.testing.assert_close(found.value, theta - 3)
    unread = Problem(lambda x: upper(x["seen"]), lambda x, t: lower(x["seen"], t), ridge=1e-9)
    found = hypergradient(unread, theta, {"seen": x, "other": x + 1}, accuracy=1e-3)
    torch.testing.assert_close(found.value, theta - 3)
    torch.testing.assert_close(found.x["other"], torch.zeros(2, dtype=F64))


def test_an_x_that_the_lower_level_does_not_look_at_has_no_solution():
    theta, x = points()
    problem = Problem(lambda x: upper(x["seen"]), lambda x, t: lower(x["seen"], t), mu=1.0)
    with pytest.raises(ValueError, match=r"depend on x0\['other'\]: .*or give a ridge"):
        maid(problem, theta, {"seen": x, "other": x})


def test_dependence_is_seen_through_views_of_every_shape():
    theta = {
        "row": torch.ones(1, 3, dtype=F64),
        "none": torch.ones((), dtype=F64),
        "cube": torch.ones(2, 1, 2, dtype=F64),
    }
    x = {name: torch.zeros_like(value) for name, value in theta.items()}
    problem = Problem(
        lambda x: torch.stack([upper(value) for value in x.values()]).sum(),
        lambda x, t: torch.stack([lower(x[name], t[name]) for name in x]).sum(),
        mu=1.0,
    )
    found = hypergradient(problem, theta, x, accuracy=1e-9)
    for name, value in theta.items():
        torch.testing.assert_close(found.value[name], value - 3)


@EACH
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda x: x, r"shape \(2,\).*use .sum\(\) or .mean\(\), or give samples=True"),
        (lambda x: float(x.detach().sum()), "returned a float: return a scalar tensor"),
        (lambda x: x.sum().long(), "torch.int64: return it in the type of x, torch.float64"),
        (lambda x: x.sum().float(), "torch.float32: return it in the type of x"),
        (lambda x: x.sum() * 1j, "torch.complex128: return it in the type of x"),
    ],
    ids=["vector", "float", "integer", "less exact", "complex"],
)
def test_a_level_that_returns_no_number_is_named(method, made, words):
    with pytest.raises(ValueError, match=rf"Problem\(upper=...\)` .*{words}"):
        method(Problem(made, lower, mu=1.0), *points())
    level = Problem(upper, lambda x, theta: made(x * theta), mu=1.0)
    with pytest.raises(ValueError, match=rf"Problem\(lower=...\)` .*{words}"):
        method(level, *points())


def test_samples_want_a_value_each():
    x = torch.zeros(3, 2, dtype=F64)
    problem = Problem(upper, lambda x, t: (x - t).square().sum(1), mu=1.0, samples=True)
    with pytest.raises(ValueError, match="return one value for each of the 3 samples"):
        maid(problem, torch.ones(2, dtype=F64), x)


@EACH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_upper_level_that_is_not_finite_is_an_error_with_its_theta(method, bad):
    problem = Problem(lambda x: upper(x) * bad, lower, mu=1.0)
    words = r"Problem\(upper=...\)` or its gradient is not finite at theta=\[1.0, 1.0\]"
    with pytest.raises(NonFiniteError, match=words):
        method(problem, *points())


@EACH
def test_a_lower_level_that_is_not_finite_is_an_error_with_its_theta(method):
    problem = Problem(upper, lambda x, theta: lower(x, theta) * math.nan, mu=1.0)
    words = r"Problem\(lower=...\)` or its gradient is not finite at theta=\[1.0, 1.0\]"
    with pytest.raises(NonFiniteError, match=words):
        method(problem, *points())


@EACH
def test_the_upper_level_need_not_be_finite_where_the_first_solve_begins(method):
    # g has no value at x0 = 0, and one at the lower level's solution, 1.
    problem = Problem(lambda x: (x.log() - 0.5).square().sum(), lower, mu=1.0)
    found = method(problem, *points())
    value = found.upper if method is METHODS["hypergradient"] else found.history[-1].value
    assert value <= 0.5 + 1e-2


@pytest.mark.parametrize("method", [maid, fixed_accuracy])
def test_where_no_step_leads_to_a_finite_upper_level_that_is_the_error(method):
    # It is finite at the start only.
    problem = Problem(lambda x: (x - 1 + 1e-9).sqrt().sum(), lower, mu=1.0)
    with pytest.raises(NonFiniteError, match=r"Problem\(upper=...\)` .* not finite at theta"):
        method(problem, *points(), accuracy=1e-12, rules=Rules(refinements=1))


def test_a_step_to_where_the_upper_level_is_not_finite_is_made_shorter():
    # Finite up to x = 4 only; the first trial goes to 21.
    problem = Problem(lambda x: upper(x) + 0 * (4 - x).sqrt().sum(), lower, mu=1.0)
    found = maid(problem, *points(), step=10.0, max_steps=20)
    assert found.history[0].trials > 1
    torch.testing.assert_close(found.theta, torch.full((2,), 3.0, dtype=F64), atol=1e-3, rtol=0)
    found = hoag(problem, *points(), step=10.0, max_steps=40)
    torch.testing.assert_close(found.theta, torch.full((2,), 3.0, dtype=F64), atol=1e-2, rtol=0)


def test_second_derivatives_that_are_not_finite_are_named():
    theta, x = points()
    # The root of theta has no derivative at 0.
    rooted = Problem(upper, lambda x, t: (x - (t - 1).sqrt()).square().sum() / 2, mu=1.0)
    with pytest.raises(NonFiniteError, match=r"second derivative of `Problem\(lower=...\)`"):
        maid(rooted, theta, x + 1)
    # The length of x has no second derivative at 0, where the lower level's solution is.
    kink = Problem(lambda x: x.abs().pow(1.5).sum(), lower, mu=1.0)
    with pytest.raises(NonFiniteError, match=r"second derivative of `Problem\(upper=...\)`"):
        maid(kink, 0 * theta, x)


def test_a_mu_that_overflows_is_a_step_too_far():
    problem = Problem(upper, lower, mu=lambda theta: min(1.0, float(theta.exp().min())))
    assert float(maid(problem, *points(), step=1e4, max_steps=20).value) < 1e-3
    overflowing = Problem(upper, lower, mu=lambda theta: float(theta.exp().exp().exp().min()))
    with pytest.raises(NonFiniteError, match=r"Problem\(mu=...\)` is not finite at theta"):
        maid(overflowing, 3 * points()[0], points()[1])


def test_residuals_that_are_not_finite_are_named():
    problem = Problem(upper, lower, mu=1.0)
    with pytest.raises(
        NonFiniteError, match=r"dfo_ls\(residuals=...\)` is not finite at theta"
    ):
        dfo_ls(problem, *points(), accuracy=1e-3, residuals=lambda x: x * math.nan)
    number: Any = lambda x: 1.0
    with pytest.raises(ValueError, match=r"residuals='float'\)` must return a tensor"):
        dfo_ls(problem, *points(), accuracy=1e-3, residuals=number)


@EACH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_starts_that_are_not_finite_are_refused(method, bad):
    (theta, x), problem = points(), Problem(upper, lower, mu=1.0)
    with pytest.raises(ValueError, match=r"theta0?=.*must be finite, and 2 of its numbers"):
        method(problem, theta * bad, x)
    with pytest.raises(ValueError, match=r"x0=.*must be finite, and 2 of its numbers are not"):
        method(problem, theta, x + bad)
