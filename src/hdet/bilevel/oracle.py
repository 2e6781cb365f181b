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
from typing import Any

import torch
from torch import Tensor

from .problem import Problem
from .trees import Tree


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
    """The lower objective or its gradient is not finite."""


class Oracle:
    """Values and derivatives at flat points: x as [m, n], theta as [p].

    Args:
        problem: the problem.
        theta: a pytree like those to come.
        x: likewise.
        call: the public name that was called, for errors.
        budget: largest cost; None is without limit.
        counts: what was counted before, in a run that goes on.
    """

    def __init__(
        self,
        problem: Problem,
        theta: Any,
        x: Any,
        call: str,
        budget: int | None = None,
        counts: Counts | None = None,
    ) -> None:
        self.problem, self._budget = problem, budget
        self.counts = counts or Counts()
        self._theta = Tree(theta, call, "theta0")
        self._x = Tree(x, call, "x0", samples=problem.samples)
        self.dtype = self._x.dtype
        self._last: tuple[Tensor, Tensor, _Linearised] | None = None

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
        """Return the strong convexity of h at theta."""
        return self.problem.strong_convexity(self.theta_tree(theta))

    def lower(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return h, [m], and its gradient in x, [m, n].

        Raises:
            NonFiniteError: if either is not finite.
        """
        at = self._at(x, theta)
        gradient, values = at.gradient.detach(), at.values.detach()
        # A sum is finite only if all are, and is one pass; the other way round, ask each.
        finite = math.isfinite(float(gradient.sum() + values.sum()))
        if not finite and not bool(gradient.isfinite().all() & values.isfinite().all()):
            shown = theta.tolist() if len(theta) <= 8 else [*theta[:8].tolist(), "..."]
            raise NonFiniteError(
                f"`Problem(lower=...)` or its gradient is not finite at theta={shown}: "
                f"bound what the lower level makes of theta, for instance by "
                f"exp(theta.clamp(max=20))."
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
        u = torch.zeros_like(at.gradient, requires_grad=True)
        return _derivative(_derivative(at.gradient, at.theta, u, create_graph=True), u, v)

    def upper(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return g, [m], and its gradient, [m, n]."""
        self.counts.upper_gradients += 1
        at, values = self._upper_values(x)
        return values.detach(), _derivative(values.sum(), at)

    def upper_hessian(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Return v -> (second derivative of g at x) v; no lower level, not counted."""
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
        point, hyper = x.detach().requires_grad_(), theta.detach().requires_grad_()
        with torch.enable_grad():
            lower = self.problem.lower(self.x_tree(point), self.theta_tree(hyper))
            values = lower.reshape(len(x))
            if self.problem.ridge:
                values = values + self.problem.ridge / 2 * point.square().sum(1)
            gradient = _derivative(values.sum(), point, create_graph=True)
        made = _Linearised(point, hyper, values, gradient)
        self._last = (x, theta, made)
        return made

    def _upper_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        point = x.detach().requires_grad_()
        with torch.enable_grad():
            return point, self.problem.upper(self.x_tree(point)).reshape(len(x))


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
    return torch.autograd.grad(
        of, by, along, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )[0]


def norms(x: Tensor) -> Tensor:
    """Return the length of each row, [m]."""
    return torch.linalg.vector_norm(x, dim=1)


def dots(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner product of each pair of rows, [m]."""
    return (x * y).sum(1)
