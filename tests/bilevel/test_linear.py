"""Conjugate gradients agree with a dense solve, and say where mu is wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.bilevel import NonFiniteError
from hdet.bilevel.linear import (
    CurvatureError,
    Ending,
    conjugate_gradients,
    largest_curvatures,
)


def systems(seed: int, rows: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, size, size, generator=source, dtype=torch.float64)
    matrices = a @ a.mT + torch.eye(size, dtype=torch.float64)
    return matrices, torch.randn(rows, size, generator=source, dtype=torch.float64)


def times(matrices):
    return lambda v: torch.einsum("mij,mj->mi", matrices, v)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 8))
def test_it_agrees_with_a_dense_solve(seed, rows, size):
    matrices, right = systems(seed, rows, size)
    found = conjugate_gradients(times(matrices), right, 1e-9, mu=1.0, max_iterations=500)
    assert found.ending is Ending.MET
    torch.testing.assert_close(found.solution, torch.linalg.solve(matrices, right))


def test_the_residual_that_is_told_is_the_true_one():
    matrices, right = systems(1, 3, 6)
    found = conjugate_gradients(times(matrices), right, 1e-2, mu=1.0)
    true = (times(matrices)(found.solution) - right).norm(dim=1)
    torch.testing.assert_close(found.residual, true)
    assert 0 < float(true.max()) <= 1e-2


def test_zero_on_the_right_is_zero_and_free_whatever_the_start():
    calls = []

    def product(v):
        calls.append(v)
        return v

    right = torch.zeros(2, 3)
    found = conjugate_gradients(product, right, 1e-9, mu=1.0, start=torch.ones(2, 3))
    assert (float(found.solution.abs().max()), found.iterations, calls) == (0.0, 0, [])


def test_a_sample_of_zero_does_not_disturb_the_others():
    matrices, right = systems(2, 3, 4)
    right[1] = 0
    found = conjugate_gradients(times(matrices), right, 1e-10, mu=1.0)
    assert bool((found.solution[1] == 0).all())
    torch.testing.assert_close(found.solution, torch.linalg.solve(matrices, right))


def test_from_the_solution_nothing_is_left_to_do():
    matrices, right = systems(3, 2, 5)
    solution = torch.linalg.solve(matrices, right)
    found = conjugate_gradients(times(matrices), right, 1e-8, mu=1.0, start=solution)
    assert found.iterations == 0


def test_iterations_that_do_not_suffice_are_told():
    matrices, right = systems(4, 2, 6)
    found = conjugate_gradients(times(matrices), right, 1e-9, mu=1.0, max_iterations=2)
    assert found.ending is Ending.ITERATIONS
    assert float(found.residual.max()) > 1e-9


def test_what_the_type_cannot_hold_is_told():
    matrices, right = systems(5, 2, 6)
    found = conjugate_gradients(times(matrices.float()), right.float(), 1e-12, mu=1.0)
    assert found.ending is not Ending.MET
    assert float(found.residual.max()) > 1e-12


def test_a_mu_above_the_curvature_is_refused():
    matrices, right = systems(6, 2, 5)
    with pytest.raises(CurvatureError, match=r"mu=50\)` is contradicted: .* a curvature of"):
        conjugate_gradients(times(matrices), right, 1e-9, mu=50.0)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_curvature_that_is_not_finite_is_named(rows):
    right = torch.ones(rows, 3)
    with pytest.raises(NonFiniteError, match=r"second derivative of `Problem\(lower=...\)`"):
        conjugate_gradients(lambda v: v * torch.nan, right, 1e-3, mu=1.0)


@pytest.mark.parametrize("rows", [1, 2])
def test_where_squares_underflow_there_is_an_end_and_no_nan(rows):
    right = torch.full((rows, 3), 3e-23)
    found = conjugate_gradients(lambda v: v, right, 1e-38, mu=1.0)
    assert found.iterations <= 30
    assert bool(found.solution.isfinite().all())


def test_the_largest_curvatures_are_found_to_a_percent():
    matrices, start = systems(7, 3, 5)
    found = largest_curvatures(times(matrices), start, 100, 1.0)
    true = torch.linalg.eigvalsh(matrices)[:, -1]
    assert bool(((0.99 * true < found) & (found <= true * (1 + 1e-12))).all())
    assert float(largest_curvatures(lambda v: 0 * v, start, 10, 1.01).max()) == 0
