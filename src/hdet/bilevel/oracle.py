"""Derivatives of a bilevel problem, and what they cost.

Everything that algorithms know of a problem comes through here, so counts are of what was
done. The cost of a run is

    lower gradients + Hessian-vector products + mixed products

each over all samples at once; a lower gradient comes with the value. Upper gradients need no
lower level, and are counted beside.

Second derivatives are reverse over reverse: all products at a point share one graph, that of
its gradient. Forward over reverse goes through the lower level anew for each of them.
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

_UPPER_REMEDY = (
    "see that it is wherever the lower level's solution may lie, for instance by "
    "x.clamp(min=1e-12).log()"
)

_LARGEST_ROOT = float_info.max**0.5


@dataclass
class Counts:
    """How often what was computed.

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
    """The next product would cost more than was allowed."""


class NonFiniteError(ValueError):
    """A level, or a derivative of it, is not finite at a theta, which the message names."""


class Oracle:
    """Values and derivatives at flat points: x as [m, n], theta as [p].

    Args:
        problem: the problem.
        theta: a pytree like those to come.
        x: likewise.
        call: the public name that was called, for errors.
        budget: largest cost; None is without limit.
        counts: what was counted before, in a run that goes on.
        argument: what theta was called there.

    Raises:
        ValueError: if theta or x is no tree of finite tensors of one floating-point type; at
            the first evaluation, if a level returns no number, or if the lower one depends on
            a tensor of theta not at all, or on one of x, or the upper one on none of x.
    """

    def __init__(
        self,
        problem: Problem,
        theta: Any,
        x: Any,
        call: str,
        budget: int | None = None,
        counts: Counts | None = None,
        argument: str = "theta0",
    ) -> None:
        self.problem, self._budget = problem, budget
        self.counts = counts or Counts()
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
        """Return the strong convexity of h at theta.

        Raises:
            NonFiniteError: if `mu` as a function overflows there.
        """
        with gradients():
            at = plain(theta) if theta.is_inference() else theta
            mu = self.problem.strong_convexity(self.theta_tree(at))
        if not math.isfinite(mu):
            remedy = "bound it, for instance by exp(theta.clamp(max=20))"
            require_finite("`Problem(mu=...)`", theta, remedy, torch.tensor(mu))
        return mu

    def lower(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return h, [m], and its gradient in x, [m, n].

        Raises:
            NonFiniteError: if either is not finite.
        """
        at = self._at(x, theta)
        gradient, values = at.gradient.detach(), at.values.detach()
        require_finite(
            "`Problem(lower=...)` or its gradient",
            theta,
            "bound what the lower level makes of theta, for instance by "
            "exp(theta.clamp(max=20))",
            gradient,
            values,
        )
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
        # J^T u is linear in u: its derivative the other way is J.
        with gradients():
            u = torch.zeros_like(at.gradient, requires_grad=True)
            return _derivative(_derivative(at.gradient, at.theta, u, create_graph=True), u, v)

    def upper(self, x: Tensor, theta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return g, [m], and its gradient, [m, n].

        Args:
            x: where.
            theta: whose solution x is. None: x is none, and g need not be finite.

        Raises:
            NonFiniteError: if either is not finite at the solution.
        """
        self.counts.upper_gradients += 1
        with gradients():
            at, values = self._upper_values(x)
            gradient, values = _derivative(values.sum(), at), values.detach()
        if theta is not None:
            require_finite(
                "`Problem(upper=...)` or its gradient", theta, _UPPER_REMEDY, gradient, values
            )
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
                self._require_x(values, trees[0])
            if ridge:
                values = values + ridge / 2 * point.square().sum(1)
            gradient = _derivative(values.sum(), point, create_graph=True)
            if not self._lower_seen:
                self._require_theta(gradient, trees[1])
        self._lower_seen = True
        made = _Linearised(point, hyper, values, gradient)
        self._last = (x, theta, made)
        return made

    def _require_x(self, values: Tensor, x: Any) -> None:
        unused = _unused(values, self._x, x)
        remedy = "leave them out, or give a ridge, so that there is one solution"
        if unused:
            refuse("lower", f"does not depend on {', '.join(unused)}", remedy)

    def _require_theta(self, gradient: Tensor, theta: Any) -> None:
        unused = _unused(gradient, self._theta, theta)
        found = f"has a gradient in x that does not depend on {', '.join(unused)}"
        remedy = (
            "leave out what is not to be learned, and see that nothing cuts the graph, as "
            ".detach(), .item() and torch.no_grad() do"
        )
        if unused:
            refuse("lower", found, remedy)

    def _upper_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a point to differentiate by, and g there; inside `gradients`."""
        point = variable(x)
        tree = self.x_tree(point)
        values = evaluate("upper", self.problem.upper, [tree], len(x), point)
        if not self._upper_seen and not any(reached(values, pytree.tree_leaves(tree))):
            remedy = "judge what the lower level found, without .detach() or torch.no_grad()"
            refuse("upper", "does not depend on x", remedy)
        self._upper_seen = True
        return point, values


@dataclass(frozen=True)
class _Linearised:
    """h at a point: its gradient with the graph to differentiate it again and again."""

    x: Tensor
    theta: Tensor
    values: Tensor
    gradient: Tensor


def _derivative(
    of: Tensor, by: Tensor, along: Tensor | None = None, *, create_graph: bool = False
) -> Tensor:
    """Return the derivative times `along`; zeros where there is no dependence."""
    if not of.requires_grad:
        return torch.zeros_like(by)
    with gradients():
        return torch.autograd.grad(
            of, by, along, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )[0]


def _unused(of: Tensor, tree: Tree, given: Any) -> list[str]:
    """Return the names of a tree's tensors that `of` was computed without."""
    found = reached(of, pytree.tree_leaves(given))
    return [name for name, used in zip(tree.names, found, strict=True) if not used]


def require_finite(what: str, theta: Tensor, remedy: str, *tensors: Tensor) -> None:
    """Raise unless all of some tensors is finite.

    Args:
        what: they are, for the message.
        theta: where, [p].
        remedy: what to do about it.
        tensors: to look at.

    Raises:
        NonFiniteError: naming `what` and theta.
    """
    # A sum is finite only if all are, and is one pass; the other way round, ask each.
    if math.isfinite(float(sum(tensor.sum() for tensor in tensors))):
        return
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        shown = theta.tolist() if len(theta) <= 8 else [*theta[:8].tolist(), "..."]
        raise NonFiniteError(f"{where()}{what} is not finite at theta={shown}: {remedy}.")


def norms(x: Tensor) -> Tensor:
    """Return the length of each row, [m]."""
    return torch.linalg.vector_norm(x, dim=1)


def dots(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner product of each pair of rows, [m]."""
    return (x * y).sum(1)


def square(x: float) -> float:
    """Return x^2; infinite where that is too large for a float, not an error."""
    return math.inf if abs(x) > _LARGEST_ROOT else x**2
