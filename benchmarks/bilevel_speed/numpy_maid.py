"""MAID in plain NumPy and SciPy: what `hdet.bilevel.maid` is timed against.

The same algorithm with the same constants, `Rules()` without the test on omega, written as one
would without autograd and without a library: arrays, derivatives by hand, and
`scipy.sparse.linalg.cg` on one sample after the other. With `batched` CG is our own, on all
samples at once. Left out is what hdet adds for safety and convenience: the curvature held
against mu, trees of tensors, states to go on from, callbacks.

Source: arXiv 2308.10098, Algorithm 3.1; `hdet.bilevel.maid` for the changes to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

from .problems import Array, Levels, Point

EPS = float(np.finfo(float).eps)
SHRINK, GROW, TIGHTEN, SHARE, DECREASE = 0.5, 10 / 9, 0.5, 0.1, 0.1
TRIALS, REFINEMENTS, MEMORY, NEWTON_STEPS = 10, 50, 5, 1000
JUMP, LARGEST_MOVE, FIRST_ACCURACY, FIRST_MOVE = 10.0, 0.3, 0.02, 0.01
FORCING, ENOUGH, TRIES, PATIENCE, LARGEST_RESIDUAL = 0.1, 1e-4, 40, 4, 0.1
MARGIN, ROUNDS = 1.02, 20


class StopError(Exception):
    """The run is over, and why."""


class OverflowedError(Exception):
    """The lower level is not finite."""


@dataclass
class Outcome:
    """What a run returns: values and costs after each outer step, and the last theta."""

    theta: Array
    values: list[float] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    cost: int = 0
    status: str = "all outer steps are done"


@dataclass
class Lower:
    """A lower level's inexact solution with what the upper level has there, by sample."""

    point: Point
    x: Array
    accuracy: Array
    value: Array
    gradient: Array
    upper_grad_norm: Array
    met: bool


class Maid:
    """A run.

    Args:
        levels: the problem.
        theta: [p], where to begin.
        x: [m, n], likewise.
        noise: [m, n], where power iterations for L_g begin.
        step: first step, or None.
        max_steps: outer steps.
        budget: largest cost.
        batched: whether all samples go through CG at once.
    """

    def __init__(
        self,
        levels: Levels,
        theta: Array,
        x: Array,
        noise: Array,
        *,
        step: float | None,
        max_steps: int,
        budget: int,
        batched: bool = False,
    ) -> None:
        self.levels, self.noise, self.budget = levels, noise, budget
        self.max_steps, self.solve_linear = max_steps, self._all if batched else self._each
        self.theta, self.x, self.step_size = theta, x, step
        self.smoothness = levels.smoothness or 0.0
        self.q: Array | None = None
        self.last: tuple[Array, Array] | None = None
        self.recent: list[float] = []
        self.point: tuple[Array, Array, Point] | None = None
        self.out = Outcome(theta)

    def run(self) -> Outcome:
        """Make outer steps until something stops it."""
        try:
            sizes = norms(self.at(self.x, self.theta).gradient) / self.levels.mu(self.theta)
            floor = EPS**0.5 * max(1.0, float(np.linalg.norm(self.x)))
            self.accuracy = FIRST_ACCURACY * float(sizes.max()) or floor
            while len(self.out.values) < self.max_steps:
                self.outer_step()
        except StopError as stop:
            self.out.status = str(stop)
        return self.out

    # --- outer level

    def outer_step(self) -> None:
        """Estimate, search; tighten until a step is accepted."""
        trials, refined = TRIALS, 0
        while True:
            here = self.solve(self.theta, self.x)
            z = self.hypergradient(here)
            self.x, norm = here.x, float(np.linalg.norm(z))
            if norm == 0:
                raise StopError("the hypergradient is 0")
            needed = self.search(here, z, norm, trials)
            if needed is None:
                return
            trials += 1
            if not here.met:
                raise StopError("the lower level's tolerance is out of reach")
            if refined == REFINEMENTS:
                raise StopError("no step was accepted")
            self.accuracy *= min(TIGHTEN, self.factor(needed))
            refined += 1

    def hypergradient(self, here: Lower) -> Array:
        """Return z = -J^T q, the mean over samples."""
        delta = np.minimum(
            LARGEST_RESIDUAL * here.upper_grad_norm, self.smoothness * self.accuracy
        )
        self.q = self.solve_linear(here.point, here.gradient, delta, self.q)
        self.spend(1)
        return -here.point.mixed(self.q) / len(here.x)

    def search(self, here: Lower, z: Array, norm: float, trials: int) -> float | None:
        """Step, and return None; or the eps that the last trial needed."""
        step_size = self.first_trial(z, norm)
        for _ in range(trials):
            theta = self.theta - step_size * z
            try:
                there = self.solve(theta, here.x)
            except OverflowedError:
                step_size *= SHRINK
                continue
            before = float((here.value - here.upper_grad_norm * here.accuracy).mean())
            bend = self.smoothness / 2 * there.accuracy**2
            after = float((there.value + there.upper_grad_norm * there.accuracy + bend).mean())
            mean, expected = float(there.value.mean()), step_size * norm**2
            if after - max([before, *self.recent]) + DECREASE * expected <= 0:
                self.take(theta, there, z, before, step_size, expected)
                return None
            gap = after - mean + float(here.value.mean()) - before
            if gap > (1 - DECREASE) * expected:
                return SHARE * expected / float(here.upper_grad_norm.mean())
            step_size *= SHRINK
        return math.inf

    def first_trial(self, z: Array, norm: float) -> float:
        """Return a Barzilai-Borwein step, long and short in turns."""
        size = max(float(np.linalg.norm(self.theta)), 1.0)
        if self.step_size is None:
            self.step_size = FIRST_MOVE * size / norm
        if self.last is None:
            return self.step_size
        s, y = self.theta - self.last[0], z - self.last[1]
        curvature = float(s @ y)
        if curvature <= 0:
            step_size = JUMP * self.step_size
        elif len(self.out.values) % 2:
            step_size = float(s @ s) / curvature
        else:
            step_size = curvature / float(y @ y)
        return min(step_size, LARGEST_MOVE * size / norm)

    def take(
        self,
        theta: Array,
        there: Lower,
        z: Array,
        before: float,
        step_size: float,
        expected: float,
    ) -> None:
        """Move, and let eps follow the step."""
        self.last = self.theta, z
        self.theta, self.x = theta, there.x
        self.recent = [*self.recent, before][-(MEMORY - 1) :]
        self.out.theta = theta
        self.out.values.append(float(there.value.mean()))
        self.out.costs.append(self.out.cost)
        norm = float(there.upper_grad_norm.mean())
        self.accuracy *= self.factor(SHARE * expected / norm if norm else math.inf)
        self.step_size = GROW * step_size

    def factor(self, needed: float) -> float:
        """Return what brings eps to `needed`, or as near as ten times."""
        return min(max(needed / self.accuracy, 1 / JUMP), JUMP)

    # --- lower level

    def solve(self, theta: Array, x: Array) -> Lower:
        """Newton-CG to |grad h| <= eps mu of each sample, and the upper level there."""
        mu = self.levels.mu(theta)
        tolerance = self.accuracy * mu
        best: Array | None = None
        since = 0
        point = self.at(x, theta)
        for _ in range(NEWTON_STEPS):
            sizes = norms(point.gradient)
            open_ = sizes > tolerance
            if not open_.any():
                break
            if best is None or (sizes < best)[open_].any():
                best, since = sizes if best is None else np.minimum(best, sizes), 0
            else:
                since += 1
                if since == PATIENCE:
                    break
            allowed = np.where(open_, np.maximum(FORCING * sizes, tolerance / 2), np.inf)
            direction = -self.solve_linear(point, point.gradient, allowed, None)
            x, point = self.line_search(theta, x, point, direction, open_)
        sizes = norms(point.gradient)
        value, gradient = self.levels.upper(x)
        self.see(x)
        met = bool((sizes <= tolerance).all())
        return Lower(point, x, sizes / mu, value, gradient, norms(gradient), met)

    def line_search(
        self, theta: Array, x: Array, point: Point, direction: Array, open_: NDArray[np.bool_]
    ) -> tuple[Array, Point]:
        """Armijo, or Hager and Zhang's approximate condition; the secant's zero if refused."""
        slope = (point.gradient * direction).sum(1)
        noise = 8 * EPS * np.abs(point.values)
        step = open_.astype(float)
        for _ in range(TRIES):
            there = x + step[:, None] * direction
            new = self.at(there, theta)
            new_slope = (new.gradient * direction).sum(1)
            lower = new.values <= point.values + ENOUGH * step * slope
            flat = np.abs(new_slope) <= -slope / 2
            refused = open_ & ~(lower | (flat & (new.values <= point.values + noise)))
            if not refused.any():
                return there, new
            with np.errstate(divide="ignore", invalid="ignore"):
                zero = slope / (slope - new_slope)
            shrink = np.where(new_slope > 0, np.clip(zero, 0.1, 0.5), 0.5)
            step = np.where(refused, step * shrink, step)
        return x, point

    def _each(self, point: Point, right: Array, tolerance: Array, start: Array | None) -> Array:
        """SciPy's conjugate gradients, one sample after the other."""
        made, most = np.zeros_like(right), 0
        for i in range(len(right)):
            if tolerance[i] >= np.linalg.norm(right[i]) and start is None:
                continue
            count = 0

            def product(v: Array, rows: slice = slice(i, i + 1)) -> Array:
                nonlocal count
                count += 1
                return point.product(v[None], rows)[0]

            shape = (right.shape[1], right.shape[1])
            made_of: dict[str, Any] = {"matvec": product, "dtype": right.dtype}
            operator = LinearOperator(shape, **made_of)
            x0 = None if start is None else start[i]
            made[i], _ = cg(operator, right[i], x0, rtol=0.0, atol=float(tolerance[i]))
            most = max(most, count)
        self.spend(most)
        return made

    def _all(self, point: Point, right: Array, tolerance: Array, start: Array | None) -> Array:
        """Conjugate gradients of all samples at once, each with its own step."""
        rows = slice(None)
        q = np.zeros_like(right) if start is None else start.copy()
        residual = right.copy()
        if start is not None:
            self.spend(1)
            residual -= point.product(q, rows)
        direction, square = residual.copy(), (residual**2).sum(1)
        while (active := square > tolerance**2).any():
            self.spend(1)
            image = point.product(direction, rows)
            along = (direction * image).sum(1)
            step_size = np.divide(square, along, out=np.zeros_like(square), where=active)[
                :, None
            ]
            q += step_size * direction
            residual -= step_size * image
            last, square = square, (residual**2).sum(1)
            turn = np.divide(square, last, out=np.zeros_like(square), where=active)[:, None]
            direction = np.where(active[:, None], residual + turn * direction, direction)
        return q

    # --- what it costs

    def at(self, x: Array, theta: Array) -> Point:
        """Return h linearised; the last point is kept."""
        if self.point is not None and self.point[0] is x and self.point[1] is theta:
            return self.point[2]
        self.spend(1)
        made = self.levels.at(x, theta)
        if not (np.isfinite(made.gradient).all() and np.isfinite(made.values).all()):
            raise OverflowedError
        self.point = x, theta, made
        return made

    def spend(self, products: int) -> None:
        """Count, unless the budget is spent."""
        if products and self.out.cost >= self.budget:
            raise StopError("the budget is spent")
        self.out.cost += products

    def see(self, x: Array) -> None:
        """Take g's curvature at x into L_g, where it is not known."""
        if self.levels.smoothness is not None:
            return
        product: Callable[[Array], Array] = self.levels.upper_hessian(x)
        v, value = self.noise, np.zeros(len(x))
        for _ in range(ROUNDS):
            v = product(v / np.maximum(norms(v), np.finfo(float).tiny)[:, None])
            last, value = value, norms(v)
            if (value <= 1.01 * last).all():
                break
        self.smoothness = max(self.smoothness, MARGIN * float(value.max()))


def norms(x: Array) -> Array:
    """Return the length of each row."""
    return np.sqrt((x * x).sum(1))
