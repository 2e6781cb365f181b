"""What is found does not depend on the caller's gradient mode, nor on what inputs require."""

import contextlib

import numpy as np
import pytest
import torch
from torch import Tensor

from hdet.bilevel import (
    FieldsOfExperts,
    Problem,
    RegularizedLogisticRegression,
    TVDenoiser,
    dfo_ls,
    finite_differences,
    fixed_accuracy,
    hoag,
    hypergradient,
    maid,
)
from hdet.bilevel.oracle import Oracle
from hdet.bilevel.solvers import SOLVERS

from .denoising.pictures import pictures
from .problems import quadratic, start

MODES = {
    "grad": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}
IN_MODE = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def inference(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


# What a caller may make of an input.
KINDS = {
    "plain": lambda t: t,
    "leaf": lambda t: t.clone().requires_grad_(),
    "computed": lambda t: t.clone().requires_grad_() * 1,
    "inference": inference,
}
CALLS = [
    ("grad", "plain"),
    ("grad", "leaf"),
    ("grad", "inference"),
    ("no_grad", "computed"),
    ("inference", "plain"),
    ("inference", "inference"),
]


def solved(name):
    def solve(problem, theta, x):
        oracle = Oracle(problem, theta, x, "test")
        flat = oracle.flat_theta(theta), oracle.flat_x(x)
        return SOLVERS[name](oracle, *flat, 1e-8, problem.mu, 1000).x

    return solve


METHODS = {
    "maid": lambda *levels: maid(*levels, max_steps=5).theta,
    "hoag": lambda *levels: hoag(*levels, step=0.1, max_steps=5).theta,
    "fixed_accuracy": lambda *levels: fixed_accuracy(*levels, max_steps=5).theta,
    "dfo_ls": lambda *levels: dfo_ls(*levels, accuracy=1e-8, max_steps=8).theta,
    "finite_differences": lambda *levels: (
        finite_differences(*levels, accuracy=1e-8, max_steps=8).theta
    ),
    "hypergradient": lambda *levels: hypergradient(*levels, accuracy=1e-9).value,
    **{name: solved(name) for name in SOLVERS},
}


def expected(name, made, theta):
    """Return the exact value of what a method finds."""
    if name == "hypergradient":
        return made.gradient(theta)
    return made.x(theta)[None] if name in SOLVERS else None


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_the_same_bit_for_bit(name):
    made, (theta, x0) = quadratic(rows=40, size=3, seed=2), start(3)
    one = torch.ones(3, dtype=torch.float64, requires_grad=True)
    # Captured tensors that require a gradient, one of them computed with another.
    known, scaled = made.problem, one * 1
    problem = Problem(
        lambda x: known.upper(x * one),
        lambda x, theta: known.lower(x * scaled, theta),
        mu=made.problem.mu,
    )
    found = []
    for mode, kind in CALLS:
        given = KINDS[kind](theta), KINDS[kind](x0)
        with MODES[mode]():
            found.append(METHODS[name](problem, *given))
        assert all(tensor.grad is None for tensor in given if tensor.is_leaf)
    assert all(torch.equal(found[0], other) for other in found)
    assert not any(other.requires_grad for other in found)
    assert one.grad is None
    exact = expected(name, made, theta)
    if exact is None:
        assert float(made.f(found[0])) < 0.9 * float(made.f(theta))
    else:
        torch.testing.assert_close(found[0], exact, rtol=1e-6, atol=1e-6)


@IN_MODE
def test_results_can_be_trained_with_and_states_gone_on_from_in_any_mode(mode):
    made, (theta, x0) = quadratic(), start()
    whole = maid(made.problem, theta, x0, max_steps=6)
    with mode():
        half = maid(made.problem, theta, x0, max_steps=3)
        again = maid(made.problem, theta, x0, max_steps=6, state=half.state)
    assert torch.equal(again.theta, whole.theta)
    outside = maid(made.problem, theta, x0, max_steps=6, state=half.state)
    assert torch.equal(outside.x, whole.x)
    for tensor in (half.theta, half.x, half.state["point"]["theta"]):
        assert not tensor.is_inference()


def test_the_callers_mode_is_left_as_it_was_and_holds_in_callbacks():
    made, (theta, x0) = quadratic(), start()
    seen = []
    with torch.no_grad():
        maid(
            made.problem,
            theta,
            x0,
            max_steps=2,
            callback=lambda *_: seen.append(torch.is_grad_enabled()),
        )
        assert not torch.is_grad_enabled()
    assert seen == [False, False]


def test_levels_that_compute_with_tensors_of_inference_mode_are_named():
    made, (theta, x0) = quadratic(), start()
    seen = inference(made.a1)
    upper = Problem(lambda x: (seen @ x).square().sum(), made.problem.lower, mu=1.0)
    with pytest.raises(
        ValueError, match=r"Problem\(upper=...\)` computes with a tensor .*clone"
    ):
        maid(upper, theta, x0)
    lower = Problem(
        made.problem.upper, lambda x, t: (seen @ x - t.sum()).square().sum(), mu=1e-9
    )
    with torch.inference_mode(), pytest.raises(ValueError, match=r"lower=...\)` computes with"):
        hypergradient(lower, theta, x0, accuracy=1e-3)


@pytest.mark.parametrize("maker", [TVDenoiser, FieldsOfExperts])
def test_denoisers_learn_and_denoise_the_same(maker, tmp_path):
    clean, noisy = pictures(2)
    reference = maker(budget=200).fit(clean, noisy)
    denoised = reference.denoise(noisy, 1e-2)
    assert float((denoised - clean).norm()) < float((noisy - clean).norm())
    for mode, kind in CALLS[1:]:
        given = KINDS[kind](clean), KINDS[kind](noisy)
        with MODES[mode]():
            found = maker(budget=200).fit(*given)
            found.save(tmp_path / "it.pt")
            loaded = maker.load(tmp_path / "it.pt")
            images = [one.denoise(given[1], 1e-2) for one in (found, loaded)]
        assert all(torch.equal(image, denoised) for image in images)
        assert not any(t.is_inference() for t in (*images, *loaded.theta.values()))
        assert not any(image.requires_grad for image in images)


@IN_MODE
def test_the_classifier_learns_the_same(mode):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((60, 4))
    y = (x[:, 0] + 0.3 * draw.standard_normal(60) > 0).astype(int)
    reference = RegularizedLogisticRegression(max_steps=2).fit(x, y)
    with mode():
        found = RegularizedLogisticRegression(max_steps=2).fit(x, y)
        assert np.array_equal(found.predict_proba(x), reference.predict_proba(x))
    assert np.array_equal(found.penalties_, reference.penalties_)
    assert abs(found.coef_[0, 0]) > 3 * abs(found.coef_[0, 1:]).max()
