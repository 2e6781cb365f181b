"""The hypergradient is that of finite differences, and no further off than its bound says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.bilevel import NonFiniteError, Problem, hypergradient

from .problems import denoising, quadratic, start

F64 = torch.float64


def central(f, theta, width=1e-5):
    """Return the gradient of f by central differences."""
    rows = torch.eye(len(theta), dtype=F64) * width
    return torch.stack([(f(theta + row) - f(theta - row)) / (2 * width) for row in rows])


def test_on_a_quadratic_it_is_the_exact_gradient():
    made, (theta, x0) = quadratic(), start()
    found = hypergradient(made.problem, theta, x0, accuracy=1e-9)
    torch.testing.assert_close(found.value, made.gradient(theta), rtol=1e-7, atol=1e-7)
    assert found.met
    assert found.message == ""
    assert found.upper == pytest.approx(float(made.f(theta)))


@pytest.mark.parametrize("solver", ["newton-cg", "lbfgs", "accelerated-gradient"])
def test_with_a_lower_level_per_sample_it_is_that_of_finite_differences(solver):
    problem, theta, noisy = denoising()

    def f(at):
        found = hypergradient(problem, at, noisy, accuracy=1e-12)
        return torch.tensor(found.upper, dtype=F64)

    found = hypergradient(problem, theta, noisy, accuracy=1e-10, solver=solver)
    torch.testing.assert_close(found.value, central(f, theta), rtol=1e-6, atol=1e-9)


def test_theta_and_x_may_be_any_trees_of_tensors():
    made, (theta, x0) = quadratic(), start()

    def lower(x, t):
        whole = torch.cat([t["first"], t["rest"][0].flatten()])
        return made.problem.lower(torch.cat([x[0], x[1]["last"]]), whole)

    problem = Problem(
        lambda x: made.problem.upper(torch.cat([x[0], x[1]["last"]])),
        lower,
        mu=made.problem.mu,
    )
    tree = {"first": theta[:1], "rest": [theta[1:].reshape(2, 2)]}
    found = hypergradient(problem, tree, [x0[:2], {"last": x0[2:]}], accuracy=1e-9)
    exact = made.gradient(theta)
    torch.testing.assert_close(found.value["first"], exact[:1])
    torch.testing.assert_close(found.value["rest"][0], exact[1:].reshape(2, 2))
    torch.testing.assert_close(found.x[1]["last"], made.x(theta)[2:])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.floats(-6, 1).map(lambda e: 10**e),
    st.floats(-6, 1).map(lambda e: 10**e),
)
def test_the_error_is_never_above_its_bound(seed, accuracy, residual):
    made, (theta, x0) = quadratic(seed=seed), start()
    found = hypergradient(made.problem, theta, x0, accuracy=accuracy, residual=residual)
    error = float((found.value - made.gradient(theta)).norm())
    assert error <= found.error_bound * (1 + 1e-9) + 1e-9
    assert found.accuracy <= accuracy
    assert found.residual <= residual


@pytest.mark.parametrize("seed", range(40))
def test_with_penalties_on_x_the_bound_holds_with_the_largest_of_them(seed):
    # h is quadratic in x, yet J = diag(exp(theta) x) is not constant.
    source = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=source, dtype=F64)

    a, b, c, d, theta = 0.3 * normal(10, 6), normal(10), normal(8, 6), normal(8), 1 + normal(6)
    hessian = a.T @ a + theta.exp().diag()
    x = torch.linalg.solve(hessian, a.T @ b)
    exact = -theta.exp() * x * torch.linalg.solve(hessian, c.T @ (c @ x - d))
    problem = Problem(
        lambda w: (c @ w - d).square().sum() / 2,
        lambda w, t: (a @ w - b).square().sum() / 2 + (t.exp() * w.square()).sum() / 2,
        mu=0.9999 * float(torch.linalg.eigvalsh(hessian)[0]),
        upper_smoothness=float(torch.linalg.eigvalsh(c.T @ c)[-1]),
        inverse_hessian_lipschitz=0.0,
        jacobian_lipschitz=float(theta.exp().max()),
    )
    for accuracy in (1.0, 0.3, 0.1):
        start = x + accuracy * normal(6) / 6**0.5
        found = hypergradient(problem, theta, start, accuracy=accuracy)
        assert float((found.value - exact).norm()) <= found.error_bound < math.inf


def test_the_jacobians_norm_is_found_where_it_is_not_given():
    (theta, x0), given_norm = start(), quadratic()
    found_norm = quadratic(jacobian_norm=None)
    one = hypergradient(given_norm.problem, theta, x0, accuracy=1e-3)
    two = hypergradient(found_norm.problem, theta, x0, accuracy=1e-3)
    assert two.error_bound == pytest.approx(one.error_bound, rel=0.03)
    assert two.counts.mixed_products > one.counts.mixed_products


def test_without_constants_nothing_is_certain():
    made, (theta, x0) = quadratic(jacobian_lipschitz=None), start()
    assert not made.problem.certified
    assert hypergradient(made.problem, theta, x0, accuracy=1e-3).error_bound == math.inf


def test_an_upper_level_that_is_flat_has_the_gradient_zero():
    made, (theta, x0) = quadratic(), start()
    problem = Problem(lambda x: 0 * x.sum(), made.problem.lower, mu=made.problem.mu)
    found = hypergradient(problem, theta, x0, accuracy=1e-3)
    assert bool((found.value == 0).all())
    assert found.counts.hessian_products < 30


def test_counts_are_those_of_calls():
    calls = []
    made, (theta, x0) = quadratic(), start()

    def lower(x, t):
        calls.append(None)
        return made.problem.lower(x, t)

    problem = Problem(made.problem.upper, lower, mu=made.problem.mu)
    found = hypergradient(problem, theta, x0, accuracy=1e-6)
    assert found.counts.gradients == len(calls) > 0
    assert found.counts.mixed_products == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"accuracy": 0.0}, r"hypergradient\(accuracy=0.0\)` must be finite and above 0"),
        ({"accuracy": 1.0, "residual": -1.0}, r"residual=-1.0\)` must be finite and above 0"),
        ({"accuracy": "1"}, r"accuracy='1'\)` must be finite and above 0"),
        (
            {"accuracy": 1.0, "max_iterations": 0},
            r"max_iterations=0\)` must be a whole number of at least 1",
        ),
        ({"accuracy": 1.0, "max_iterations": math.inf}, "must be a whole number of at least 1"),
        (
            {"accuracy": 1.0, "solver": ["lbfgs"]},
            r"solver=\['lbfgs'\]\)` must be \"newton-cg\"",
        ),
        ({"accuracy": 1.0, "solver": "sgd"}, "solver='sgd'.*: a function is allowed too"),
    ],
)
def test_bad_arguments_are_refused(given, words):
    made, (theta, x0) = quadratic(), start()
    with pytest.raises(ValueError, match=words):
        hypergradient(made.problem, theta, x0, **given)


def test_a_lower_level_that_is_not_finite_is_named_with_its_theta():
    made, (theta, x0) = quadratic(), start()
    problem = Problem(made.problem.upper, lambda x, t: (t * 1e3).exp().sum() * x.sum(), mu=1.0)
    with pytest.raises(NonFiniteError, match=r"not finite at theta=\[1\.0, 1\.0, 1\.0"):
        hypergradient(problem, theta, x0, accuracy=1e-3)


def test_what_was_not_reached_is_told():
    problem, theta, noisy = denoising()
    found = hypergradient(problem, theta.float(), noisy.float(), accuracy=1e-12)
    assert not found.met
    assert found.message == "a solver stopped: the floating-point type allows no more"
    assert found.accuracy > 1e-12
