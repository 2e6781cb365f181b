"""Linear classifiers as a bilevel problem: penalties that held-out folds judge.

    h_k(W, theta) = CE over fold k's training part + 1/2 sum exp(theta) W^2
                    + gamma/2 (|W|^2 + |b|^2)
    f(theta)      = mean over k of CE over fold k + |theta - theta_0|^2 / (2 n width^2)

CE is the mean cross entropy of X W + b, in nats; n the number of examples. Every fold has a
lower level of its own, and all are solved in one batch. f's last term is the normal prior of a
hierarchical model: without it, one penalty per weight is learned by heart from the folds.

The upper level sees theta through the lower level's solution only, so theta - theta_0 is a part
of that: the lower level has another term, |shift - (theta - theta_0)|^2 / 2.
"""

import torch
from torch import Tensor

from ..oracle import Oracle
from ..problem import Problem
from ..solvers import Solution, newton_cg

# Larger penalties change nothing but the lower level's condition.
_LARGEST = 20.0
# What is tried for a single penalty, from above: for features of a mean square near 1.
_SINGLE = [10 ** (-k / 2) for k in range(7)]
# |grad h|, as a part of what it is at zero weights.
_ROUGH, _FINE = 1e-4, 1e-8
_MOST_STEPS = 100


class CrossEntropy:
    """Examples and their loss.

    Args:
        x: [n, p], floating point.
        y: classes from 0, [n], int64.
        columns: of W: 1 for two classes, by the logistic function; else their number.
    """

    def __init__(self, x: Tensor, y: Tensor, columns: int) -> None:
        self.x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        self.columns = columns
        classes = torch.arange(1, 2) if columns == 1 else torch.arange(columns)
        self._targets = (y[:, None] == classes).to(x.dtype)

    def loss(self, weights: Tensor, part: Tensor) -> Tensor:
        """Return the mean cross entropy over parts of the examples, [m].

        Args:
            weights: of each part, the bias last, [m, p + 1, columns].
            part: ones where an example counts, else zeros, [m, n].
        """
        scores = torch.einsum("np,mpk->mnk", self.x, weights)
        # Apart from the linear term, so that second derivatives pass through one term only.
        if self.columns == 1:
            top = torch.nn.functional.softplus(scores)[..., 0]
        else:
            top = scores.logsumexp(2)
        each = top - (scores * self._targets).sum(2)
        return (each * part).sum(1) / part.sum(1)

    def single(self, train: Tensor, judge: Tensor) -> tuple[float, Tensor]:
        """Return the best single penalty of 1, 0.3, 0.1 ... 0.001, and the weights with it.

        Args:
            train: ones where an example trains, [m, n].
            judge: ones where it judges.
        """
        best, least, weights = _SINGLE[0], torch.inf, self._zeros(len(train))
        none = self.x.new_zeros(1)
        for penalty in _SINGLE:
            problem = self._lower_problem(none, train, penalty)
            made = self._solve(problem, none, weights, _ROUGH).x.reshape(weights.shape)
            judged = float(self.loss(made, judge).mean())
            if judged > least:
                break
            best, least, weights = penalty, judged, made
        return best, weights

    def problem(
        self, start: Tensor, ridge: float, width: float, train: Tensor, judge: Tensor
    ) -> Problem:
        """Return the problem whose x is [weights, shift].

        Args:
            start: theta_0, which broadcasts against [p, columns].
            ridge: gamma > 0.
            width: of the prior, in units of theta.
            train: ones where an example trains, [m, n].
            judge: ones where it judges.
        """
        prior = 1 / (len(self.x) * width**2)

        def upper(x: list[Tensor]) -> Tensor:
            weights, shift = x
            return self.loss(weights, judge) + prior / 2 * shift.square().sum((1, 2))

        def lower(x: list[Tensor], theta: Tensor) -> Tensor:
            weights, shift = x
            off = (shift - (theta - start)).square().sum((1, 2))
            return self._penalised(weights, penalties(theta), train) + off / 2

        # Boehning's bound on the curvature of cross entropy.
        curvature = 0.25 if self.columns == 1 else 0.5
        sizes = [torch.linalg.matrix_norm(self.x[p > 0], 2) ** 2 / p.sum() for p in judge]
        return Problem(
            upper,
            lower,
            ridge=ridge,
            upper_smoothness=max(curvature * float(max(sizes)), prior),
            upper_convex=True,
            samples=True,
        )

    def fit(self, penalty: Tensor, ridge: float, train: Tensor) -> Solution:
        """Return the weights that minimise h, as [m, (p + 1) columns].

        Args:
            penalty: apart from the ridge, broadcasts against [p, columns].
            ridge: gamma > 0.
            train: ones where an example trains, [m, n].
        """
        problem = self._lower_problem(penalty, train, ridge)
        return self._solve(problem, penalty, self._zeros(len(train)), _FINE)

    def _penalised(self, weights: Tensor, penalty: Tensor, train: Tensor) -> Tensor:
        squares = penalty * weights[:, :-1].square()
        return self.loss(weights, train) + squares.sum((1, 2)) / 2

    def _lower_problem(self, penalty: Tensor, train: Tensor, ridge: float) -> Problem:
        """Return a problem of which the lower level alone is wanted; theta is `penalty`."""
        return Problem(
            lambda weights: self.loss(weights, train),
            lambda weights, theta: self._penalised(weights, theta, train),
            ridge=ridge,
            samples=True,
        )

    def _solve(self, problem: Problem, theta: Tensor, weights: Tensor, part: float) -> Solution:
        oracle = Oracle(problem, theta, weights, "CrossEntropy")
        flat, start, mu = oracle.flat_theta(theta), oracle.flat_x(weights), problem.ridge
        zeros = torch.zeros_like(start)
        accuracy = part * float(oracle.lower(zeros, flat)[1].norm(dim=1).max()) / mu
        return newton_cg(oracle, flat, start, accuracy, mu, _MOST_STEPS)

    def _zeros(self, parts: int) -> Tensor:
        return self.x.new_zeros(parts, self.x.shape[1], self.columns)


def penalties(theta: Tensor) -> Tensor:
    """Return exp(theta), at most exp(20)."""
    return theta.clamp(max=_LARGEST).exp()
