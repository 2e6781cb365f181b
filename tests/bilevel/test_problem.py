"""Constants are checked, mu must be there, and trees are told what they must be."""

import pytest
import torch

from hdet.bilevel import Problem
from hdet.bilevel.trees import Tree


def problem(**given):
    return Problem(lambda x: x.sum(), lambda x, theta: (x * theta).sum(), **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"Problem\(mu=None\)` must be given if there is no ridge: .*ridge=1e-3"),
        ({"mu": 0.0}, r"mu=0.0\)` must be finite and above 0"),
        ({"mu": "one"}, r"mu='one'\)` must be finite and above 0"),
        ({"mu": 1.0, "jacobian_lipschitz": float("nan")}, "jacobian_lipschitz=nan"),
        ({"mu": float("nan")}, r"mu=nan\)` must be finite"),
        ({"mu": 1.0, "ridge": None}, r"ridge=None\)` must be finite and at least 0"),
        ({"ridge": -1.0}, r"ridge=-1.0\)` must be finite and at least 0"),
        ({"mu": 1.0, "upper_smoothness": -1.0}, r"upper_smoothness=-1.0\)` must be finite"),
        ({"mu": 1.0, "jacobian_norm": float("inf")}, r"jacobian_norm=inf\)` must be finite"),
    ],
)
def test_bad_constants_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        problem(**given)


def test_a_mu_that_vanishes_with_theta_asks_for_a_ridge():
    vanishing = problem(mu=lambda theta: float(theta.exp().min()))
    assert vanishing.strong_convexity(torch.zeros(2)) == 1.0
    with pytest.raises(ValueError, match=r"above 0 at every theta: add ridge=1e-3"):
        vanishing.strong_convexity(torch.tensor([0.0, -1e4]))
    with_ridge = problem(mu=lambda theta: float(theta.exp().min()), ridge=0.5)
    assert with_ridge.strong_convexity(torch.tensor([0.0, -1e4])) == 0.5


def test_constants_may_be_tensors_of_one_number_and_levels_must_be_functions():
    given = problem(mu=torch.tensor(2.0), upper_smoothness=torch.tensor([3.0]))
    assert (given.strong_convexity(torch.zeros(2)), given.upper_smoothness) == (2.0, 3.0)
    learned = torch.tensor(0.5, requires_grad=True)
    assert problem(mu=lambda theta: 2 * learned).strong_convexity(torch.zeros(2)) == 1.0
    with pytest.raises(ValueError, match="must be a number, or a function of theta"):
        problem(mu=lambda theta: theta).strong_convexity(torch.zeros(2))
    with pytest.raises(ValueError, match=r"Problem\(upper=3\)` must be a function"):
        Problem(3, lambda x, theta: x, mu=1.0)  # pyright: ignore[reportArgumentType]


def test_it_is_certified_once_every_constant_is_there():
    known = {"upper_smoothness": 1.0, "inverse_hessian_lipschitz": 0.0}
    assert not problem(mu=1.0, **known).certified
    assert problem(mu=1.0, jacobian_lipschitz=0.0, **known).certified


def test_trees_go_to_matrices_and_back():
    tree = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.tensor([[7.0], [8.0]])]}
    shape = Tree(tree, "call", "x0", samples=True)
    matrix = shape.flat(tree)
    assert matrix.tolist() == [[0.0, 1.0, 2.0, 7.0], [3.0, 4.0, 5.0, 8.0]]
    back = shape.tree(matrix)
    assert torch.equal(back["a"], tree["a"])
    assert torch.equal(back["b"][0], tree["b"][0])
    assert Tree(tree, "call", "x0").flat(tree).shape == (1, 8)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([1.0], "must hold tensors only"),
        ([], "must hold tensors only"),
        ([torch.arange(3)], "must be of one floating-point type"),
        ([torch.zeros(2, dtype=torch.complex64)], "must be of one floating-point type"),
        ([torch.zeros(2, 0)], "must have at least one number"),
        (
            {"a": torch.ones(1), "b": torch.full((1,), torch.nan)},
            r"x0\['b'\]=nan\)` must be fin",
        ),
        ([torch.zeros(2), torch.zeros(2, dtype=torch.float64)], "one floating-point type"),
        ([torch.zeros(2, 1), torch.zeros(3)], "must have one row per sample"),
        ([torch.tensor(1.0)], "must have one row per sample"),
    ],
)
def test_bad_trees_are_refused(tree, words):
    with pytest.raises(ValueError, match=words):
        Tree(tree, "maid", "x0", samples=True)
