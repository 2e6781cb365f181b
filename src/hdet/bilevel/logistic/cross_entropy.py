"""Linear classifiers as a bilevel problem: penalties that are learned on held-out folds.

    h_k(W, theta) = CE over fold k's training part + 1/2 sum exp(theta) W^2
                    + gamma/2 (|W|^2 + |b|^2)
    f(theta)      = mean over k of CE over fold k + |theta - theta_0|^2 / (2 n width^2)

CE is the mean cross entropy of X W + b, in nats; n is the number of examples. Every fold has a
lower level of its own, and all are solved in one batch. The last term of f is the normal prior
of a hierarchical model: without it, one penalty per weight overfits the folds.

The upper level depends on theta only through the lower level's solution, so theta - theta_0 is
made a part of that: the lower level has another term, |shift - (theta - theta_0)|^2 / 2.
"""

import math

import torch
from torch import Tensor

from ..hypergradient import Evaluator
from ..problem import Problem
from ..solvers import Solution

# Larger penalties change nothing but the lower level's condition.
_LARGEST = 20.0
# The single penalties that are tried, from above: for features with a mean square near 1.
_SINGLE = [10 ** (-k / 2) for k in range(7)]
# The ridge, as a part of the best single penalty; the rest of it is learned.
_RIDGE = 0.5
# |grad h|, as a part of what it is at zero weights.
_ROUGH, _FINE = 1e-4, 1e-8
_NEWTON_STEPS = 100


class CrossEntropy:
    """Examples x, [n, p], their classes y from 0, [n], and their loss.

    W has one column for two classes, by the logistic function; else one for each.
    """

    def __init__(self, x: Tensor, y: Tensor, columns: int) -> None:
        self.x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        self.columns = columns
        classes = torch.arange(1, 2) if columns == 1 else torch.arange(columns)
        self._targets = (y[:, None] == classes).to(x.dtype)

    def loss(self, weights: Tensor, part: Tensor) -> Tensor:
        """Return the mean cross entropy over parts of the examples, [m].

        `weights` are those of each part, the bias last, [m, p + 1, columns]; `part` has ones
        where an example counts, else zeros, [m, n].
        """
        scores = torch.einsum("np,mpk->mnk", self.x, weights)
        # Apart from the linear term, so that second derivatives pass through one term only.
        if self.columns == 1:
            top = torch.nn.functional.softplus(scores)[..., 0]
        else:
            top = scores.logsumexp(2)
        each = top - (scores * self._targets).sum(2)
        return (each * part).sum(1) / part.sum(1)

    def start(
        self, held_out: Tensor, kind: str, ridge: float | None, start: float | None
    ) -> tuple[float, Tensor, Tensor]:
        """Return the ridge, theta_0 and the folds' weights to start from.

        A ridge of None is half of the best single penalty; a start of None the rest of it.
        """
        single, weights = self._single(1 - held_out, held_out)
        ridge = _RIDGE * single if ridge is None else ridge
        if start is None:
            # If the ridge alone is too large, what is learned starts small beside it.
            start = math.log(max(single - ridge, (1 - _RIDGE) * single))
        rows = weights.shape[1] - 1 if kind in ("weight", "feature") else 1
        columns = self.columns if kind in ("weight", "class") else 1
        return ridge, weights.new_full((rows, columns), start), weights

    def problem(
        self, start: Tensor, ridge: float, width: float, train: Tensor, held_out: Tensor
    ) -> Problem:
        """Return the problem whose x is [weights, shift], with the prior around `start`."""
        prior = 1 / (len(self.x) * width**2)

        def upper(x: list[Tensor]) -> Tensor:
            weights, shift = x
            return self.loss(weights, held_out) + prior / 2 * shift.square().sum((1, 2))

        def lower(x: list[Tensor], theta: Tensor) -> Tensor:
            weights, shift = x
            off = (shift - (theta - start)).square().sum((1, 2))
            return self._penalised(weights, penalties(theta), train) + off / 2

        # Boehning's bound on the curvature of cross entropy.
        curvature = 0.25 if self.columns == 1 else 0.5
        sizes = [torch.linalg.matrix_norm(self.x[p > 0], 2) ** 2 / p.sum() for p in held_out]
        return Problem(
            upper,
            lower,
            ridge=ridge,
            upper_smoothness=max(curvature * float(max(sizes)), prior),
            upper_convex=True,
            samples=True,
        )

    def fit(self, penalty: Tensor, ridge: float, train: Tensor) -> Solution:
        """Return the weights that minimise h for exp(theta) = penalty, [m, (p + 1) columns]."""
        return self._solve(penalty, ridge, train, self._zeros(len(train)), _FINE)

    def _single(self, train: Tensor, held_out: Tensor) -> tuple[float, Tensor]:
        """Return the best single penalty of 1, 0.3, 0.1 ... 0.001, and the weights with it."""
        best, least, weights = _SINGLE[0], torch.inf, self._zeros(len(train))
        none = self.x.new_zeros(1)
        for penalty in _SINGLE:
            made = self._solve(none, penalty, train, weights, _ROUGH).x.reshape(weights.shape)
            loss = float(self.loss(made, held_out).mean())
            if loss > least:
                break
            best, least, weights = penalty, loss, made
        return best, weights

    def _solve(
        self, penalty: Tensor, ridge: float, train: Tensor, weights: Tensor, part: float
    ) -> Solution:
        """Minimise h from `weights`, until its gradient is a part of that at zero weights."""
        problem = Problem(
            lambda weights: self.loss(weights, train),
            lambda weights, penalty: self._penalised(weights, penalty, train),
            ridge=ridge,
            samples=True,
        )
        f = Evaluator("CrossEntropy", problem, penalty, weights, max_iterations=_NEWTON_STEPS)
        flat, start = f.oracle.flat_theta(penalty), f.oracle.flat_x(weights)
        gradient = f.oracle.lower(torch.zeros_like(start), flat)[1]
        accuracy = part * float(gradient.norm(dim=1).max()) / ridge
        return f.solve(flat, start, accuracy, ridge)

    def _penalised(self, weights: Tensor, penalty: Tensor, train: Tensor) -> Tensor:
        squares = penalty * weights[:, :-1].square()
        return self.loss(weights, train) + squares.sum((1, 2)) / 2

    def _zeros(self, parts: int) -> Tensor:
        return self.x.new_zeros(parts, self.x.shape[1], self.columns)


def penalties(theta: Tensor) -> Tensor:
    """Return exp(theta), at most exp(20)."""
    return theta.clamp(max=_LARGEST).exp()
