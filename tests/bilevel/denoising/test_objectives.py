"""The lower levels are what their formulas say, convex, and finite at the ends of the type."""

import math

import pytest
import torch
from torch.autograd.functional import hessian

from hdet.bilevel import Problem, field_start, fields_of_experts, hypergradient, smoothed_tv

from .pictures import pictures

F32, F64 = torch.float32, torch.float64


def tv_start(weight=-2.5, smoothing=-3.0, dtype=F64):
    return {
        "weight": torch.tensor(weight, dtype=dtype),
        "smoothing": torch.tensor(smoothing, dtype=dtype),
    }


def small_field(**given):
    return field_start(3, 3, seed=1, **given)


LEVELS = pytest.mark.parametrize(
    ("lower", "theta"),
    [(smoothed_tv, tv_start()), (fields_of_experts, small_field())],
    ids=["tv", "foe"],
)


def slow_tv(u, y, theta):
    weight, smoothing = math.exp(theta["weight"]), math.exp(theta["smoothing"])
    total, (height, width) = 0.0, u.shape
    for i in range(height):
        for j in range(width):
            down = float(u[i + 1, j] - u[i, j]) if i + 1 < height else 0.0
            right = float(u[i, j + 1] - u[i, j]) if j + 1 < width else 0.0
            total += weight * math.sqrt(down**2 + right**2 + smoothing**2)
            total += float(u[i, j] - y[i, j]) ** 2 / 2
    return total


def slow_field(u, y, theta):
    total, (height, width) = float((u - y).square().sum()) / 2, u.shape
    rows = zip(theta["filters"], theta["weights"], theta["smoothing"], strict=True)
    for kernel, weight, smoothing in rows:
        size = len(kernel)
        for i in range(height - size + 1):
            for j in range(width - size + 1):
                response = float((kernel * u[i : i + size, j : j + size]).sum())
                expert = math.sqrt(response**2 + math.exp(2 * smoothing))
                total += math.exp(theta["scale"] + weight) * expert
    return total


@pytest.mark.parametrize(
    ("lower", "slow", "theta"),
    [(smoothed_tv, slow_tv, tv_start()), (fields_of_experts, slow_field, small_field())],
    ids=["tv", "foe"],
)
def test_it_is_its_formula_written_as_loops(lower, slow, theta):
    u, y = pictures(2, 6, 8)
    expected = [slow(a, b, theta) for a, b in zip(u, y, strict=True)]
    torch.testing.assert_close(lower(u, y, theta).tolist(), expected)


@LEVELS
def test_its_curvature_is_at_least_one(lower, theta):
    u, y = pictures(1, 5, 6)
    matrix = hessian(lambda v: lower(v[None], y, theta)[0], u[0])
    assert isinstance(matrix, torch.Tensor)
    assert float(torch.linalg.eigvalsh(matrix.reshape(30, 30))[0]) >= 1 - 1e-12


@LEVELS
def test_the_hypergradient_is_that_of_finite_differences(lower, theta):
    clean, y = pictures(2, 6, 7)
    problem = Problem(
        lambda u: (u - clean).square().sum((1, 2)) / 2,
        lambda u, theta: lower(u, y, theta),
        mu=1.0,
        upper_smoothness=1.0,
        samples=True,
    )

    def at(theta):
        return hypergradient(problem, theta, y, accuracy=1e-10)

    made = at(theta).value
    for name, value in theta.items():
        way = torch.zeros_like(value)
        way.view(-1)[0] = 1e-5
        ahead, back = at(theta | {name: value + way}), at(theta | {name: value - way})
        slope = (ahead.upper - back.upper) / 2e-5
        assert float(made[name].view(-1)[0]) == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("lower", "theta"),
    [
        (smoothed_tv, tv_start(smoothing=-200.0)),
        (fields_of_experts, small_field(smoothing=-200.0)),
    ],
    ids=["tv", "foe"],
)
def test_where_smoothing_underflows_all_derivatives_are_finite(lower, theta, dtype):
    y = pictures(1)[0].to(dtype).requires_grad_()
    hyper = {name: value.to(dtype).requires_grad_() for name, value in theta.items()}
    gradient = torch.autograd.grad(lower(y, y.detach(), hyper).sum(), y, create_graph=True)[0]
    along = torch.ones_like(y)
    second = torch.autograd.grad(gradient, [y, *hyper.values()], along, allow_unused=True)
    assert gradient.isfinite().all()
    assert all(part.isfinite().all() for part in second if part is not None)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_cosine_basis_is_orthonormal_and_blind_to_constants(size):
    filters = field_start(None, size)["filters"].flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(size**2 - 1, dtype=F64))
    torch.testing.assert_close(filters.sum(1), torch.zeros(size**2 - 1, dtype=F64))


def test_random_filters_follow_the_seed():
    first, again, other = (field_start(4, 3, seed)["filters"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.flatten(1).norm(dim=1), torch.ones(4, dtype=F64))
    torch.testing.assert_close(first.sum((1, 2)), torch.zeros(4, dtype=F64))
