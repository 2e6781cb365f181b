"""Derivatives of a bilevel problem, and what they cost.

Everything that the algorithms learn of a problem comes through an `Oracle`, so that the counts
are those of what was done. The cost of a run is

    lower gradients + Hessian-vector products + mixed products

each over all samples at once; a lower gradient includes the value. Upper gradients involve no
lower level and are counted separately.

Second derivatives are reverse over reverse: all products at a point share one graph, that of
its gradient. Forward over reverse would evaluate the lower level again for each of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from sys import float_info
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import where
from .levels import evaluate, reached, refuse
from .modes import gradients, plain, variable
from .problem import Problem
from .trees import Tree

_LARGEST_ROOT = float_info.max**0.5


@dataclass
class Counts:
    """The number of evaluations of each kind.

    Attributes:
        gradients: of h in x.
        hessian_products: H v.
        mixed_products: J^T q or J v.
        upper_gradients: of g; not part of the cost.
    """

    gradients: int = 0
    hessian_products: int = 0
    mixed_products: int = 0
    upper_gradients: int = 0

    @property
    def cost(self) -> int:
        """Lower gradients, Hessian-vector and mixed products together."""
        return self.gradients + self.hessian_products + self.mixed_products


class BudgetSpentError(RuntimeError):
    """The next product would exceed the budget."""


class NonFiniteError(ValueError):
    """A level, or a derivative of it, is not finite at a theta, which the message gives."""


class Oracle:
    """Values and derivatives at flat points, x as [m, n] and theta as [p], with their `counts`.

    Args:
        problem: the problem.
        theta: a pytree with the structure of those to come.
        x: likewise.
        call: the public name that was called, for errors.
        budget: the largest cost; None is unlimited.
        argument: the name of theta there.

    Raises:
        ValueError: if theta or x is not a pytree of finite tensors of one floating-point type.
            At the first evaluation: if a level does not return one number, or does not depend
            on what it must depend on, see `Problem`.
    """

    def __init__(
        self,
        problem: Problem,
        theta: Any,
        x: Any,
        call: str,
        budget: int | None = None,
        argument: str = "theta0",
    ) -> None:
        self.problem, self._budget, self.counts = problem, budget, Counts()
        self._theta = Tree(theta, call, argument)
        self._x = Tree(x, call, "x0", samples=problem.samples)
        self.dtype = self._x.dtype
        self._last: tuple[Tensor, Tensor, _Linearised] | None = None
        self._lower_seen = self._upper_seen = False

    def flat_theta(self, tree: Any) -> Tensor:
        """Return a theta as [p]."""
        return self._theta.flat(tree)[0]

    def flat_x(self, tree: Any) -> Tensor:
        """Return an x as [m, n]."""
        return self._x.flat(tree)

    def theta_tree(self, theta: Tensor) -> Any:
        """Return [p] as the user's theta."""
        return self._theta.tree(theta[None])

    def x_tree(self, x: Tensor) -> Any:
        """Return [m, n] as the user's x."""
        return self._x.tree(x)

    def mu(self, theta: Tensor) -> float:
        """Return the strong convexity of h at theta; a `NonFiniteError` if it overflows."""
        with gradients():
            at = plain(theta) if theta.is_inference() else theta
            mu = self.problem.strong_convexity(self.theta_tree(at))
        if not math.isfinite(mu):
            remedy = "bound it, for instance with exp(theta.clamp(max=20))"
            require_finite("`Problem(mu=...)`", theta, remedy, torch.tensor(mu))
        return mu

    def lower(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return h, [m], and its gradient in x, [m, n]; a `NonFiniteError` if not finite."""
        at = self._at(x, theta)
        gradient, values = at.gradient.detach(), at.values.detach()
        remedy = "bound the terms in theta, for instance with exp(theta.clamp(max=20))"
        what = "`Problem(lower=...)` or its gradient"
        require_finite(what, theta, remedy, gradient, values)
        return values, gradient

    def hessian(self, x: Tensor, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """Return v -> H v at (x, theta), [m, n] to [m, n]."""
        at = self._at(x, theta)

        def product(v: Tensor) -> Tensor:
            self._spend("hessian_products")
            return _derivative(at.gradient, at.x, v)

        return product

    def jacobian_transposed(self, x: Tensor, theta: Tensor, q: Tensor) -> Tensor:
        """Return J^T q, [p], summed over samples."""
        at = self._at(x, theta)
        self._spend("mixed_products")
        return _derivative(at.gradient, at.theta, q)

    def jacobian(self, x: Tensor, theta: Tensor, v: Tensor) -> Tensor:
        """Return J v, [m, n], for v as [p]."""
        at = self._at(x, theta)
        self._spend("mixed_products")
        # J^T u is linear in u, and its derivative in u, transposed, is J.
        with gradients():
            u = torch.zeros_like(at.gradient, requires_grad=True)
            return _derivative(_derivative(at.gradient, at.theta, u, create_graph=True), u, v)

    def upper(self, x: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return g, [m], and its gradient, [m, n]; if x is theta's solution, both finite."""
        self.counts.upper_gradients += 1
        with gradients():
            at, values = self._upper_values(x)
            gradient, values = _derivative(values.sum(), at), values.detach()
        if theta is not None:
            what = "`Problem(upper=...)` or its gradient"
            remedy = (
                "make it finite wherever the lower level's solution may lie, for instance "
                "with x.clamp(min=1e-12).log()"
            )
            require_finite(what, theta, remedy, gradient, values)
        return values, gradient

    def upper_hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Return v -> (second derivative of g at x) v; no lower level, not counted."""
        with gradients():
            at, values = self._upper_values(x)
            gradient = _derivative(values.sum(), at, create_graph=True)
        return lambda v: _derivative(gradient, at, v)

    def _spend(self, what: str) -> None:
        if self._budget is not None and self.counts.cost >= self._budget:
            raise BudgetSpentError
        setattr(self.counts, what, getattr(self.counts, what) + 1)

    def _at(self, x: Tensor, theta: Tensor) -> "_Linearised":
        """Return h's gradient at a point, differentiable; the last one is kept."""
        last = self._last
        if last is not None and last[0] is x and last[1] is theta:
            return last[2]
        self._spend("gradients")
        ridge = self.problem.ridge
        with gradients():
            point, hyper = variable(x), variable(theta)
            trees = self.x_tree(point), self.theta_tree(hyper)
            values = evaluate("lower", self.problem.lower, trees, len(x), point)
            if not self._lower_seen and not ridge:
                remedy = "leave them out of x, or give a ridge, so that the solution is unique"
                _require_all(values, self._x, trees[0], "does not depend on", remedy)
            if ridge:
                values = values + ridge / 2 * point.square().sum(1)
            gradient = _derivative(values.sum(), point, create_graph=True)
            if not self._lower_seen:
                found = "has a gradient in x that does not depend on"
                remedy = (
                    "leave out of theta what is not to be learned, and check that nothing "
                    "cuts the graph, as .detach(), .item() and torch.no_grad() do"
                )
                _require_all(gradient, self._theta, trees[1], found, remedy)
        self._lower_seen = True
        made = _Linearised(point, hyper, values, gradient)
        self._last = (x, theta, made)
        return made

    def _upper_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a point to differentiate with respect to, and g there; inside `gradients`."""
        point = variable(x)
        tree = self.x_tree(point)
        values = evaluate("upper", self.problem.upper, [tree], len(x), point)
        if not self._upper_seen and not any(reached(values, pytree.tree_leaves(tree))):
            remedy = "compute it from x, without .detach() or torch.no_grad()"
            refuse("upper", "does not depend on x", remedy)
        self._upper_seen = True
        return point, values


@dataclass(frozen=True)
class _Linearised:
    """h at a point, and its gradient with the graph to differentiate it again."""

    x: Tensor
    theta: Tensor
    values: Tensor
    gradient: Tensor


def _derivative(
    of: Tensor, by: Tensor, along: Tensor | None = None, *, create_graph: bool = False
) -> Tensor:
    """Return the derivative times `along`; zeros if there is no dependence."""
    if not of.requires_grad:
        return torch.zeros_like(by)
    with gradients():
        return torch.autograd.grad(
            of, by, along, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )[0]


def _require_all(of: Tensor, tree: Tree, given: Any, found: str, remedy: str) -> None:
    """Raise a `ValueError` that names the tensors of a tree that `of` does not depend on."""
    used = reached(of, pytree.tree_leaves(given))
    unused = [name for name, is_used in zip(tree.names, used, strict=True) if not is_used]
    if unused:
        refuse("lower", f"{found} {', '.join(unused)}", remedy)


def require_finite(what: str, theta: Tensor, remedy: str, *tensors: Tensor) -> None:
    """Raise a `NonFiniteError` with `what`, theta and the remedy unless all is finite."""
    # One pass, as a sum is only finite if all terms are; only if it overflows, look at each.
    if math.isfinite(float(sum(tensor.sum() for tensor in tensors))):
        return
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        shown = theta.tolist() if len(theta) <= 8 else [*theta[:8].tolist(), "..."]
        raise NonFiniteError(f"{where()}{what} is not finite at theta={shown}: {remedy}.")


def norms(x: Tensor) -> Tensor:
    """Return the Euclidean norm of each row, [m]."""
    return torch.linalg.vector_norm(x, dim=1)


def dots(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner product of each pair of rows, [m]."""
    return (x * y).sum(1)


def square(x: float) -> float:
    """Return x^2, or infinity where that overflows; Python would raise an error."""
    return math.inf if abs(x) > _LARGEST_ROOT else x**2
