"""The four problems of the bilevel study in NumPy, all derivatives by hand.

Data is that of `benchmarks.bilevel.tasks`, so that both sides solve the same problem. A `Point`
is h linearised at (x, theta): value, gradient, and the products with its second derivatives,
with all that they share computed once. As in hdet, x is [m, n] and theta is [p]. Every problem
has

    smoothness              L_g; None where it is found along the way
    mu(theta)               the strong convexity of h
    at(x, theta)            h linearised there: a `Point`
    upper(x)                g, [m], and its gradient, [m, n]
    upper_hessian(x)        v -> (second derivative of g at x) v

Images come in two versions. "plain" takes one image and one filter at a time through
`scipy.signal`, as one would write it down; "batched" takes all at once, through matrix products
of all patches with all filters, as one would after a look at a profile.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import convolve2d, correlate2d

from hdet.bilevel.oracle import Oracle

from ..bilevel.tasks import Task

Array = NDArray[np.float64]
Product = Callable[[Array, slice], Array]


@dataclass(frozen=True)
class Point:
    """h of each sample at (x, theta).

    Attributes:
        values: h, [m].
        gradient: in x, [m, n].
        product: (v, rows) to H v for these samples alone, [k, n].
        mixed: q to J^T q, [p], summed over samples.
    """

    values: Array
    gradient: Array
    product: Product
    mixed: Callable[[Array], Array]


class Quadratic:
    """A: g = |A1 x - b1|^2 / 2, h = |A2 x + A3 theta - b2|^2 / 2."""

    def __init__(self, task: Task) -> None:
        data = _arrays(task.problem.lower) | _arrays(task.problem.upper)
        self.a1, self.a2, self.a3 = data["a1"], data["a2"], data["a3"]
        self.b1, self.b2 = data["b1"], data["b2"]
        self.smoothness = task.problem.upper_smoothness
        self._mu = task.problem.strong_convexity(task.theta0)

    def mu(self, theta: Array) -> float:
        return self._mu

    def at(self, x: Array, theta: Array) -> Point:
        a2, a3 = self.a2, self.a3
        left = a2 @ x[0] + a3 @ theta - self.b2
        return Point(
            np.array([left @ left / 2]),
            (left @ a2)[None],
            lambda v, _: ((a2 @ v[0]) @ a2)[None],
            lambda q: (a2 @ q[0]) @ a3,
        )

    def upper(self, x: Array) -> tuple[Array, Array]:
        left = self.a1 @ x[0] - self.b1
        return np.array([left @ left / 2]), (left @ self.a1)[None]

    def upper_hessian(self, x: Array) -> Callable[[Array], Array]:
        return lambda v: ((self.a1 @ v[0]) @ self.a1)[None]


class Logistic:
    """B: cross entropy + sum exp(theta) W^2 / 2, and a ridge."""

    smoothness = None

    def __init__(self, task: Task) -> None:
        data = _arrays(task.problem.lower) | _arrays(task.problem.upper)
        self.ridge = task.problem.ridge
        self.train, self.validation = (
            (data["x"][rows], np.eye(10)[data["y"][rows]])
            for rows in (data["train"], data["validation"])
        )

    def mu(self, theta: Array) -> float:
        return float(np.exp(np.minimum(theta, 20).min())) + self.ridge

    def at(self, x: Array, theta: Array) -> Point:
        weights, strength = x[0].reshape(64, 10), np.exp(np.minimum(theta, 20)).reshape(64, 10)
        curvature, free = strength + self.ridge, (theta <= 20).reshape(64, 10)
        value, gradient, product = _cross_entropy(*self.train, weights)
        pull = strength * weights * free

        def hessian(v: Array, _: slice) -> Array:
            v = v.reshape(64, 10)
            return (product(v) + curvature * v).reshape(1, -1)

        return Point(
            np.array([value + (curvature * weights**2).sum() / 2]),
            (gradient + curvature * weights).reshape(1, -1),
            hessian,
            lambda q: pull.ravel() * q[0],
        )

    def upper(self, x: Array) -> tuple[Array, Array]:
        value, gradient, _ = _cross_entropy(*self.validation, x[0].reshape(64, 10))
        return np.array([value]), gradient.reshape(1, -1)

    def upper_hessian(self, x: Array) -> Callable[[Array], Array]:
        product = _cross_entropy(*self.validation, x[0].reshape(64, 10))[2]
        return lambda v: product(v.reshape(64, 10)).reshape(1, -1)


class _Denoising:
    """What C and D share: g = |u - clean|^2 / 2, and images as rows."""

    smoothness = 1.0

    def __init__(self, task: Task) -> None:
        assert isinstance(task.x0, torch.Tensor)
        self.clean = _arrays(task.problem.upper)["clean"]
        self.noisy: Array = task.x0.numpy()
        self.shape = self.noisy.shape[1:]
        # The columns of each part of theta in its flat form.
        names = list(task.theta0)
        oracle = Oracle(task.problem, task.theta0, task.x0, "levels")
        marks = {
            name: torch.full_like(value, names.index(name))
            for name, value in task.theta0.items()
        }
        flat = oracle.flat_theta(marks).numpy()
        self.columns = {name: np.flatnonzero(flat == k) for k, name in enumerate(names)}

    def mu(self, theta: Array) -> float:
        return 1.0

    def images(self, x: Array) -> Array:
        return x.reshape(-1, *self.shape)

    def upper(self, x: Array) -> tuple[Array, Array]:
        left = self.images(x) - self.clean
        return (left**2).sum((1, 2)) / 2, left.reshape(x.shape)

    def upper_hessian(self, x: Array) -> Callable[[Array], Array]:
        return lambda v: v


class TotalVariation(_Denoising):
    """C: |u - y|^2 / 2 + w sum of sqrt(|Du|^2 + e^(2 smoothing)), w = e^weight."""

    def at(self, x: Array, theta: Array) -> Point:
        weight, smoothing = (theta[self.columns[k]][0] for k in ("weight", "smoothing"))
        w, square = np.exp(weight), np.exp(2 * smoothing)
        u = self.images(x)
        right, down = _differences(u)
        root = np.sqrt(right**2 + down**2 + square + _FLOOR)
        left = u - self.noisy
        # D u / root.
        along, across = right / root, down / root
        gradient = left + w * _differences_transposed(along, across)

        def product(v: Array, rows: slice) -> Array:
            image = self.images(v)
            dx, dy = _differences(image)
            part = along[rows] * dx + across[rows] * dy
            dx = (dx - along[rows] * part) / root[rows]
            dy = (dy - across[rows] * part) / root[rows]
            return (image + w * _differences_transposed(dx, dy)).reshape(v.shape)

        def mixed(q: Array) -> Array:
            dx, dy = _differences(self.images(q))
            part = along * dx + across * dy
            made = np.empty_like(theta)
            made[self.columns["weight"]] = w * part.sum()
            made[self.columns["smoothing"]] = -w * square * (part / root**2).sum()
            return made

        values = (left**2).sum((1, 2)) / 2 + w * root.sum((1, 2))
        return Point(values, gradient.reshape(x.shape), product, mixed)


class Experts(_Denoising):
    """D: |u - y|^2 / 2 + sum over k of w_k sum of sqrt((f_k * u)^2 + e^(2 smoothing_k))."""

    def __init__(self, task: Task, batched: bool) -> None:
        super().__init__(task)
        self.size = task.theta0["filters"].shape[1]
        self._batched = batched

    def at(self, x: Array, theta: Array) -> Point:
        part = {name: theta[columns] for name, columns in self.columns.items()}
        filters = part["filters"].reshape(-1, self.size, self.size)
        w = np.exp(part["scale"] + part["weights"])
        square = np.exp(2 * part["smoothing"])[:, None, None]
        forth, back, onto = (_at_once if self._batched else _one_by_one)(filters)
        u = self.images(x)
        response = forth(u)
        root = np.sqrt(response**2 + square + _FLOOR)
        left = u - self.noisy
        # The derivatives of a root, [m, K, h - s + 1, w - s + 1], times w.
        first = w[:, None, None] * response / root
        second = w[:, None, None] * (square + _FLOOR) / root**3

        def product(v: Array, rows: slice) -> Array:
            image = self.images(v)
            return (image + back(second[rows] * forth(image))).reshape(v.shape)

        def mixed(q: Array) -> Array:
            image = self.images(q)
            answer = forth(image)
            of_weights = (first * answer).sum((0, 2, 3))
            of_smoothing = -(first * answer * square / root**2).sum((0, 2, 3))
            of_filters = onto(image, first) + onto(u, second * answer)
            made = np.empty_like(theta)
            made[self.columns["scale"]] = of_weights.sum()
            made[self.columns["weights"]] = of_weights
            made[self.columns["smoothing"]] = of_smoothing
            made[self.columns["filters"]] = of_filters.ravel()
            return made

        values = (left**2).sum((1, 2)) / 2 + (root.sum((2, 3)) * w).sum(1)
        return Point(values, (left + back(first)).reshape(x.shape), product, mixed)


Levels = Quadratic | Logistic | TotalVariation | Experts


def levels_of(task: Task, *, batched: bool = False) -> Levels:
    """Return a task's levels; `batched` matters where there are filters."""
    if task.name == "foe":
        return Experts(task, batched)
    plain = {"quadratic": Quadratic, "logistic": Logistic, "tv": TotalVariation}
    return plain[task.name](task)


# As hdet's `smoothed_length` has it.
_FLOOR = np.finfo(float).eps ** 2


def _arrays(function: Callable[..., Any]) -> dict[str, NDArray[Any]]:
    """Return the tensors that a closure holds, as arrays."""
    held = inspect.getclosurevars(function).nonlocals
    return {k: v.numpy() for k, v in held.items() if isinstance(v, torch.Tensor)}


def _cross_entropy(
    x: Array, y: Array, weights: Array
) -> tuple[float, Array, Callable[[Array], Array]]:
    """Return the mean cross entropy, its gradient and its Hessian as a product."""
    scores = x @ weights
    scores -= scores.max(1, keepdims=True)
    share = np.exp(scores)
    total = share.sum(1, keepdims=True)
    share /= total
    value = float((np.log(total[:, 0]) - (scores * y).sum(1)).mean())

    def product(v: Array) -> Array:
        moved = share * (x @ v)
        return x.T @ (moved - share * moved.sum(1, keepdims=True)) / len(x)

    return value, x.T @ (share - y) / len(x), product


def _differences(u: Array) -> tuple[Array, Array]:
    right, down = np.zeros_like(u), np.zeros_like(u)
    right[..., :-1] = np.diff(u, axis=-1)
    down[..., :-1, :] = np.diff(u, axis=-2)
    return right, down


def _differences_transposed(right: Array, down: Array) -> Array:
    made = np.zeros_like(right)
    made[..., 1:] += right[..., :-1]
    made[..., :-1] -= right[..., :-1]
    made[..., 1:, :] += down[..., :-1, :]
    made[..., :-1, :] -= down[..., :-1, :]
    return made


# Images to responses, that transposed, and the responses' derivative in the filters.
_Filtering = tuple[
    Callable[[Array], Array], Callable[[Array], Array], Callable[[Array, Array], Array]
]


def _one_by_one(filters: Array) -> _Filtering:
    def forth(u: Array) -> Array:
        return np.array([[correlate2d(image, f, "valid") for f in filters] for image in u])

    def back(r: Array) -> Array:
        return np.array(
            [
                sum(convolve2d(one, f) for one, f in zip(image, filters, strict=True))
                for image in r
            ]
        )

    def onto(u: Array, r: Array) -> Array:
        made = np.zeros_like(filters)
        for image, responses in zip(u, r, strict=True):
            for k, one in enumerate(responses):
                made[k] += correlate2d(image, one, "valid")
        return made

    return forth, back, onto


def _at_once(filters: Array) -> _Filtering:
    size = filters.shape[1]
    matrix = filters.reshape(len(filters), -1)

    def patches(u: Array) -> Array:
        """Return [m, s * s, height * width]."""
        windows = sliding_window_view(u, (size, size), (-2, -1))
        return windows.transpose(0, 3, 4, 1, 2).reshape(len(u), size * size, -1)

    def forth(u: Array) -> Array:
        height, width = u.shape[1] - size + 1, u.shape[2] - size + 1
        return (matrix @ patches(u)).reshape(len(u), len(filters), height, width)

    def back(r: Array) -> Array:
        m, count, height, width = r.shape
        # What each pixel of a patch gives back, added up where patches overlap.
        parts = (matrix.T @ r.reshape(m, count, -1)).reshape(m, size, size, height, width)
        made = np.zeros((m, height + size - 1, width + size - 1))
        for a in range(size):
            for b in range(size):
                made[:, a : a + height, b : b + width] += parts[:, a, b]
        return made

    def onto(u: Array, r: Array) -> Array:
        m, count = r.shape[:2]
        given = r.reshape(m, count, -1) @ patches(u).transpose(0, 2, 1)
        return given.sum(0).reshape(filters.shape)

    return forth, back, onto
