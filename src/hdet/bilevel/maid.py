"""MAID: gradient descent on the upper level that chooses its accuracies and step sizes.

The lower level is solved as inexactly as descent allows. The accuracy is tightened where a
hypergradient may not point down, or where no step is certain to go down, and relaxed after
every accepted step; the step size grows until the line search refuses it (`Rules.paper()`).

    eps, delta      accuracy of the lower level, residual of the linear solve
    z, omega        hypergradient and the bound on its error
    rho, rho-bar    shrink, grow: of the step;   nu, nu-bar   tighten, relax: of eps and delta
    eta, lambda     descent: omega <= (1 - eta)|z|;  decrease: lambda alpha |z|^2

A step is accepted if  U(x(theta - alpha z)) - Lo(x(theta)) + lambda alpha |z|^2 <= 0, so that
the exact f has fallen by lambda alpha |z|^2 (Lemma 3.5), whatever the error of z. U and Lo use
the accuracies that were reached, not those asked for. If all constants are known, omega is
tested as well (Algorithm 3.2).

Our default makes three changes, for reasons that docs/concepts/maid.md gives: eps follows the
last step (`share`), a search starts from a Barzilai-Borwein step size, and Lo is the largest of
the last points' (`memory`).

Source: Salehi, Mukherjee, Roberts, Ehrhardt, arXiv 2308.10098, Algorithms 3.1 and 3.2.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import require
from .bounds import lower_bound, upper_bound
from .descent import Method, minimise
from .hypergradient import Estimate, Evaluator
from .linear import Ending
from .oracle import NonFiniteError, norms, square
from .problem import Problem
from .result import SHORT, Callback, Result, Status, Step
from .resuming import State
from .rules import Rules, rules_of
from .solvers import Solver

# The largest factor by which eps, or a step size where f does not curve upwards, changes at
# once; the first move of theta, and the largest, as parts of max(|theta|, 1).
_JUMP, _FIRST_MOVE, _LARGEST_MOVE = 10.0, 0.01, 0.3


def maid(
    problem: Problem,
    theta0: Any,
    x0: Any,
    *,
    accuracy: float | None = None,
    residual: float | None = None,
    step: float | None = None,
    max_steps: int = 100,
    budget: int | None = None,
    tolerance: float = 0.0,
    certify: bool | None = None,
    rules: Rules | None = None,
    solver: str | Solver = "newton-cg",
    max_iterations: int = 1000,
    callback: Callback | None = None,
    state: dict[str, Any] | None = None,
) -> Result:
    """Minimise f over theta. Local: nothing communicates.

    Args:
        problem: the two levels.
        theta0: a pytree of tensors, where to start.
        x0: a pytree of tensors, where the first lower-level solve starts.
        accuracy: eps0 > 0, the first allowed distance to the lower level's solution, in units
            of x. None is a fiftieth of |grad h(x0)| / mu, which does not depend on units.
        residual: delta0 > 0, the first allowed residual of the linear solve, in units of
            grad g; never more than a tenth of |grad g|. None is L_g eps, which adds as much to
            the error as eps does, and follows eps.
        step: alpha0 > 0, the first step size. None moves theta by 0.01 max(|theta0|, 1).
        max_steps: the largest number of outer steps, those of `state` included.
        budget: the largest cost: lower gradients, Hessian-vector and mixed products in all.
        tolerance: |z| at which to stop, and omega if it is tested, in units of f over theta;
            0 never stops the run.
        certify: whether to test omega; None tests it if all constants are known.
        rules: the constants of the algorithm; None is `Rules()`.
        solver: of the lower level: "newton-cg", "lbfgs", "accelerated-gradient", or a
            function of their signature.
        max_iterations: the largest number of iterations of the solver.
        callback: called after every outer step with its `Step` and the state behind it.
        state: of an earlier result or callback, with the same arguments otherwise. theta0 and
            x0 then only give the structure.

    Returns:
        The result; its status says why it stopped. With `Rules(memory=1)` f falls at every
        step of its history, by Lemma 3.5.

    Raises:
        ValueError: if an argument is out of range; if a level does not return a scalar, or is
            not finite; if the lower level does not depend on a tensor of theta, or its
            curvature contradicts `mu`; if `certify` lacks constants; if `state` is damaged.
    """
    good = not certify or problem.certified
    rule = "needs all constants of the problem"
    remedy = "give upper_smoothness, inverse_hessian_lipschitz and jacobian_lipschitz"
    require(good, "maid", "certify", certify, rule, remedy)
    certify = problem.certified if certify is None else certify
    rules = rules_of("maid", rules)
    method = Maid(rules=rules, max_steps=max_steps, tolerance=tolerance, certify=certify)
    f = Evaluator("maid", problem, theta0, x0, solver, max_iterations, budget)
    return minimise(f, method, theta0, x0, (accuracy, residual, step), callback, state)


@dataclass(frozen=True)
class _Trial:
    """A step that was accepted: where it leads, and U there; Lo where it begins."""

    step_size: float
    theta: Tensor
    x: Tensor
    value: float
    upper_grad_norm: float
    upper: float
    lower: float


@dataclass(frozen=True)
class _Search:
    """How a line search ended."""

    trials: int
    accepted: _Trial | None = None
    needed: float = math.inf  # the eps for the last trial, if its bounds were too far apart
    error: NonFiniteError | None = None  # of the last trial, if no trial was finite


@dataclass(frozen=True, kw_only=True)
class Maid(Method):
    """Algorithms 3.1 and 3.2 with these rules."""

    rules: Rules

    def step(self, f: Evaluator, state: State) -> State:
        """Algorithm 3.1, one pass of its outer loop."""
        rules, trials, tried, refined = self.rules, self.rules.trials, 0, 0
        while True:
            # Algorithm 3.2: x to eps, q to delta, z, and the bound omega on z's error.
            found, state = f.hypergradient(state, certify=self.certify)
            if self.at_rest(found):
                return replace(state, status=Status.GRADIENT_TOLERANCE)
            search = _Search(0)
            if not self.certify or found.omega <= (1 - rules.eta) * found.norm:
                # -z certainly points down, unless that is not tested: search along it.
                if state.step_size is None:
                    move = _FIRST_MOVE * _size(state.theta)
                    state = replace(state, step_size=move / found.norm)
                search = self._line_search(f, state, found, trials)
                tried += search.trials
                if search.accepted is not None:
                    return self._accept(f, state, found, search.accepted, tried, refined)
                state, trials = replace(state, failed=state.failed + 1), trials + 1
            if found.ending is not Ending.MET or refined >= rules.refinements:
                if search.error is not None:
                    # It says what is wrong, and no status would.
                    raise search.error
                return replace(state, status=SHORT.get(found.ending, Status.LINE_SEARCH))
            # Lines 9 and 10, and the end of Algorithm 3.2: tighten eps and delta.
            factor = min(rules.tighten, _bounded(search.needed / state.accuracy))
            state, refined = state.with_accuracy_times(factor), refined + 1

    def _line_search(self, f: Evaluator, state: State, found: Estimate, trials: int) -> _Search:
        """Algorithm 3.1's inner loop: the first step size that certainly decreases f."""
        rules, convex = self.rules, f.oracle.problem.upper_convex
        step_size = self._first_trial(state, found)
        error, finite = None, False
        for made in range(1, trials + 1):
            theta = state.theta - step_size * found.z
            try:
                solution, value, gradient = f.evaluate(theta, found.x, state.accuracy)
            except NonFiniteError as raised:
                # Such a step leads to where a level overflows; a shorter one need not.
                error = raised
                step_size *= rules.shrink
                continue
            finite = True
            # Computed together, so that both bounds use the same L_g.
            smooth, sizes = f.constants.smoothness, norms(gradient)
            lower = lower_bound(
                found.value, found.upper_grad_norm, found.accuracy, smooth, convex
            )
            upper = upper_bound(value, sizes, solution.accuracy, smooth)
            mean, expected = float(value.mean()), step_size * square(found.norm)
            # psi(alpha) <= 0.
            if upper - max([lower, *state.recent]) + rules.decrease * expected <= 0:
                size = float(sizes.mean())
                trial = _Trial(step_size, theta, solution.x, mean, size, upper, lower)
                return _Search(made, trial)
            # f falls by about alpha |z|^2, and by less over a shorter step; the gap stays.
            gap = upper - mean + found.mean - lower
            if rules.share is not None and gap > (1 - rules.decrease) * expected:
                needed = rules.share * expected / float(found.upper_grad_norm.mean())
                return _Search(made, needed=needed)
            step_size *= rules.shrink
        return _Search(trials, error=None if finite else error)

    def _first_trial(self, state: State, found: Estimate) -> float:
        """Return the first step size of a search: alpha_k, or Barzilai and Borwein's."""
        assert state.step_size is not None
        last_theta, last_z, longer = state.last_theta, state.last_z, _JUMP * state.step_size
        if not self.rules.barzilai_borwein or last_theta is None or last_z is None:
            return state.step_size
        s, y = state.theta - last_theta, found.z - last_z
        curvature = float(s @ y)
        if curvature <= 0:
            step_size = longer
        elif state.step % 2:
            step_size = float(s @ s) / curvature
        else:
            least = float(y @ y)
            step_size = curvature / least if least else longer
        return min(step_size, _LARGEST_MOVE * _size(state.theta) / found.norm)

    def _accept(
        self,
        f: Evaluator,
        state: State,
        found: Estimate,
        trial: _Trial,
        tried: int,
        refined: int,
    ) -> State:
        """Algorithm 3.1, lines 12 to 14: move, relax the accuracies, let the step grow."""
        rules, norm = self.rules, found.norm
        step = Step(
            step=state.step + 1,
            value=trial.value,
            bound=trial.upper,
            accuracy=state.accuracy,
            residual=f.residual(state),
            step_size=trial.step_size,
            norm=norm,
            error_bound=found.omega,
            trials=tried,
            refinements=refined,
            cost=f.oracle.counts.cost,
        )
        factor = rules.relax
        if rules.share is not None:
            wanted = rules.share * (trial.step_size * square(norm))
            size = trial.upper_grad_norm
            factor = _bounded((wanted / size if size else math.inf) / state.accuracy)
            if self.certify and found.omega:
                # omega grows with eps: beyond this the next test on it would fail.
                factor = min(factor, (1 - rules.eta) * norm / found.omega)
        recent = (*state.recent, trial.lower)
        moved = replace(
            state,
            theta=trial.theta,
            x=trial.x,
            value=trial.value,
            step_size=rules.grow * trial.step_size,
            last_theta=state.theta,
            last_z=found.z,
            recent=recent[max(0, len(recent) + 1 - rules.memory) :],
            history=(*state.history, step),
        )
        return moved.with_accuracy_times(factor)


def _bounded(factor: float) -> float:
    """Return a factor of eps, or the nearest that one change may be."""
    return min(max(factor, 1 / _JUMP), _JUMP)


def _size(theta: Tensor) -> float:
    return max(float(torch.linalg.vector_norm(theta)), 1.0)
