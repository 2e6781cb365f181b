"""MAID: gradient descent on the upper level that chooses accuracies and steps by itself.

The lower level is solved as inexactly as descent allows. Accuracy is tightened where a
hypergradient may not point down, or where no step is certain to go down, and relaxed after
every step that was taken; the step grows until the line search refuses it (`Rules.paper()`).

    eps, delta      accuracy of the lower level, residual of the linear solve
    z, omega        hypergradient and the bound on its error
    rho, rho-bar    shrink, grow: of the step;   nu, nu-bar   tighten, relax: of eps and delta
    eta, lambda     descent: omega <= (1 - eta)|z|;  decrease: lambda alpha |z|^2

Accepted is a step with  U(x(theta - alpha z)) - Lo(x(theta)) + lambda alpha |z|^2 <= 0, so that
the exact f has fallen by lambda alpha |z|^2 (Lemma 3.5), whatever z's error. U and Lo are taken
with the accuracies that were reached, not those asked for. Where all constants are known, the
test on omega (Algorithm 3.2) is made as well.

Ours, and the default, are three changes. Fixed factors take many searches to come from a bad
first eps to a good one; but what a search needs is known: bounds whose gap, about
eps |grad g|, is small against alpha |z|^2. So eps follows the last step (`share`), and a search
that its gap alone makes hopeless is given up at once. A search begins at a step of Barzilai and
Borwein, whose two lengths take turns. And Lo is the largest of the last points' (`memory`),
which leaves such steps their way; at `memory` = 1 the test is the paper's own.

Source: Salehi, Mukherjee, Roberts, Ehrhardt, arXiv 2308.10098, Algorithms 3.1 and 3.2.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import require
from .bounds import lower_bound, upper_bound
from .checks import is_number, require_whole
from .descent import Options, Run, short_of
from .endings import Ending
from .hypergradient import Estimate
from .oracle import NonFiniteError, square
from .problem import Problem
from .result import Callback, Result, Status, Step
from .solvers import Solver

# The most by which eps, or a step where f does not curve upwards, changes at once; and the
# farthest first trial, as a part of theta.
_JUMP, _LARGEST_MOVE = 10.0, 0.3


@dataclass(frozen=True)
class Rules:
    """The constants of Algorithms 3.1 and 3.2.

    Args:
        shrink: rho in (0, 1), of the step at each refused trial.
        grow: rho-bar >= 1, of the step after each accepted one.
        tighten: nu in (0, 1], of the accuracies after a failed test.
        relax: nu-bar >= 1, of the accuracies after each accepted step; only without `share`.
        share: in (0, 1), the part of alpha |z|^2 that eps |grad g| may be: eps is set to it
            after each step and failed search, by a factor of ten at a time at most. A tenth
            by our measurements. None: nu and nu-bar alone move eps, and every search goes
            through all of its trials, as printed.
        eta: in (0, 1); how far z must be from the worst that omega allows. 0.5 by our
            measurements; towards 0 the test is empty.
        decrease: lambda in (0, eta); the part of alpha |z|^2 that f must fall by.
        trials: steps that a search tries before accuracy is tightened; one more after each
            search that failed.
        refinements: how often accuracy may be tightened in one outer step.
        barzilai_borwein: whether a search begins at a Barzilai-Borwein step instead, of at
            most 0.3 max(|theta|, 1). The long one leads far where f is flat, and may lead to
            a theta whose lower level is dear to solve: long and short take turns.
        memory: bounds of that many points the new one must lie below the largest of. 1 is
            monotone: f falls at every step, for certain. More lets it rise in between
            (Grippo, Lampariello, Lucidi); 5 saves most failed searches, and comes lower at
            equal cost by our measurements.

    Raises:
        ValueError: if one is out of its range.
    """

    shrink: float = 0.5
    grow: float = 10 / 9
    tighten: float = 0.5
    relax: float = 1.05
    share: float | None = 0.1
    eta: float = 0.5
    decrease: float = 0.1
    trials: int = 10
    refinements: int = 50
    barzilai_borwein: bool = True
    memory: int = 5

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("shrink", lambda v: 0 < v < 1, "must lie between 0 and 1"),
            ("grow", lambda v: 1 <= v < math.inf, "must be finite and at least 1"),
            ("tighten", lambda v: 0 < v <= 1, "must lie in (0, 1]"),
            ("relax", lambda v: 1 <= v < math.inf, "must be finite and at least 1"),
            ("share", lambda v: 0 < v < 1, "must be None or in (0, 1)"),
            ("eta", lambda v: 0 < v < 1, "must lie between 0 and 1"),
            ("decrease", lambda v: 0 < v < self.eta, f"must lie in (0, eta={self.eta})"),
        ):
            value = getattr(self, name)
            good = value is None and name == "share" or is_number(value) and holds(value)
            require(good, "Rules", name, value, rule, _usual(name))
        for name, low in (("trials", 1), ("refinements", 0), ("memory", 1)):
            require_whole("Rules", name, getattr(self, name), low, _usual(name))

    @classmethod
    def paper(cls, *, relax: float = 1.05) -> "Rules":
        """Return Algorithm 3.1 as printed.

        Args:
            relax: nu-bar; the authors' experiments have 1.05, on their quadratic 1.25.
        """
        return cls(relax=relax, share=None, barzilai_borwein=False, memory=1)


def _usual(name: str) -> str:
    return f"the default is {getattr(Rules, name):.4g}"


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
        theta0: a pytree of tensors, where to begin.
        x0: a pytree of tensors, where the first lower-level solve begins.
        accuracy: eps0 > 0, the first allowed distance to the lower level's solution, in units
            of x. None: a fiftieth of |grad h(x0)| / mu, which is free of scale.
        residual: delta0 > 0, the first allowed residual of the linear solve, in units of
            grad g; a tenth of grad g at most, whatever is given. None: L_g eps, which adds
            to the error as much as eps does; it then follows eps.
        step: alpha0 > 0. None: moves theta by a hundredth of max(|theta0|, 1).
        max_steps: outer steps in all, those of `state` included.
        budget: largest cost: lower gradients, Hessian-vector and mixed products in all.
        tolerance: |z| at which to stop, and omega where it is tested, in units of f over
            theta; 0 goes on.
        certify: whether to test omega; None where all constants are known.
        rules: the algorithm's constants; None is `Rules()`.
        solver: of the lower level: "newton-cg", "lbfgs", "accelerated-gradient", or a
            function of their signature.
        max_iterations: of the solver.
        callback: called after every outer step with its record and the state behind it.
        state: of an earlier result or callback, with the same arguments otherwise; theta0
            and x0 then only give the shape.

    Returns:
        The result; its status says why it stopped. With `Rules(memory=1)` f falls at every
        step of its history, by Lemma 3.5.

    Raises:
        ValueError: if an argument is out of range; if a level is no scalar, or not finite
            where it is looked at; if the lower level does not depend on a tensor of theta, or
            its curvature contradicts `mu`; if `certify` lacks constants; if `state` is
            damaged.
    """
    good = not certify or problem.certified
    rule = "needs all constants of the problem"
    remedy = "give upper_smoothness, inverse_hessian_lipschitz and jacobian_lipschitz"
    require(good, "maid", "certify", certify, rule, remedy)
    rules = rules_of("maid", rules)
    options = Options(
        accuracy=accuracy,
        residual=residual,
        step=step,
        max_steps=max_steps,
        budget=budget,
        tolerance=tolerance,
        certify=problem.certified if certify is None else certify,
        solver=solver,
        max_iterations=max_iterations,
        callback=callback,
        state=state,
    )
    run = Run("maid", problem, theta0, x0, options)
    return run.descend(lambda run: outer_step(run, rules))


def rules_of(call: str, rules: Rules | None) -> Rules:
    """Return the rules, or the default ones.

    Raises:
        ValueError: if they are something else.
    """
    good = rules is None or isinstance(rules, Rules)
    require(good, call, "rules", rules, "must be None or Rules", "write Rules(memory=1)")
    return rules or Rules()


def outer_step(run: Run, rules: Rules) -> Status | None:
    """Algorithm 3.1, one pass of its outer loop; None, or why to stop."""
    tried = refined = 0
    trials = rules.trials
    while True:
        found = run.estimate()
        if run.at_rest(found):
            return Status.GRADIENT_TOLERANCE
        # Algorithm 3.2: -z is certain to point down.
        if not run.options.certify or found.omega <= (1 - rules.eta) * found.norm:
            search = _search(run, found, rules, trials)
            tried += search.trials
            if search.accepted is not None:
                _take(run, found, search.accepted, rules, tried, refined)
                return None
            run.at.failed += 1
            trials += 1
        else:
            search = _Search(0)
        last = found.ending is not Ending.MET or refined >= rules.refinements
        if last and search.error is not None:
            # No status would say what is wrong.
            raise search.error
        if found.ending is not Ending.MET:
            return short_of(found.ending)
        if last:
            return Status.LINE_SEARCH
        run.scale_accuracy(min(rules.tighten, _factor(run, search.needed)))
        refined += 1


@dataclass(frozen=True)
class _Accepted:
    """A trial that passed: alpha, theta and x there, means of g and |grad g|, U; Lo before."""

    length: float
    theta: Tensor
    x: Tensor
    value: float
    slope: float
    upper: float
    before: float


@dataclass(frozen=True)
class _Search:
    """How a line search ended.

    Attributes:
        trials: how many there were.
        accepted: what was accepted, if anything.
        needed: the eps that the last trial needed where its bounds were too far apart.
        error: of the last trial, where a level was finite at none.
    """

    trials: int
    accepted: _Accepted | None = None
    needed: float = math.inf
    error: NonFiniteError | None = None


def _search(run: Run, found: Estimate, rules: Rules, trials: int) -> _Search:
    """Algorithm 3.1's line search."""
    at, convex = run.at, run.oracle.problem.upper_convex
    length = _first_trial(run, found, rules)
    error, finite = None, False
    for made in range(1, trials + 1):
        theta = at.theta - length * found.z
        try:
            solution, value, slope = run.solve(theta, found.x)
        except NonFiniteError as raised:
            # A step as long as that leads to where h overflows: a shorter one need not.
            error = raised
            length *= rules.shrink
            continue
        finite = True
        # Seen together, so that both sides stand on one L_g.
        smooth = run.constants.smoothness
        here = lower_bound(found.value, found.slope, found.accuracy, smooth, convex)
        reference = max([here, *at.recent])
        upper = upper_bound(value, slope, solution.accuracy, smooth)
        mean, expected = float(value.mean()), length * square(found.norm)
        if upper - reference + rules.decrease * expected <= 0:
            accepted = _Accepted(
                length, theta, solution.x, mean, float(slope.mean()), upper, here
            )
            return _Search(made, accepted)
        # f falls by about alpha |z|^2, over a shorter step by less; the gap stays.
        gap = upper - mean + float(found.value.mean()) - here
        if rules.share is not None and gap > (1 - rules.decrease) * expected:
            needed = rules.share * expected / float(found.slope.mean())
            return _Search(made, needed=needed)
        length *= rules.shrink
    return _Search(trials, error=None if finite else error)


def _first_trial(run: Run, found: Estimate, rules: Rules) -> float:
    """Return the step that a search begins with: alpha_k, or Barzilai and Borwein's."""
    at = run.at
    if at.length is None:
        at.length = run.first_length(found.norm)
    if not rules.barzilai_borwein or at.last_theta is None or at.last_z is None:
        return at.length
    s, y = at.theta - at.last_theta, found.z - at.last_z
    curvature = float(s @ y)
    if curvature <= 0:
        length = _JUMP * at.length
    elif at.step % 2:
        length = float(s @ s) / curvature
    else:
        least = float(y @ y)
        length = curvature / least if least else _JUMP * at.length
    farthest = _LARGEST_MOVE * max(float(torch.linalg.vector_norm(at.theta)), 1.0)
    return min(length, farthest / found.norm)


def _factor(run: Run, needed: float) -> float:
    """Return what brings eps to `needed`, or as near to it as one change may."""
    return min(max(needed / run.at.accuracy, 1 / _JUMP), _JUMP)


def _take(
    run: Run, found: Estimate, to: _Accepted, rules: Rules, tried: int, refined: int
) -> None:
    """Lines 12 to 14: move, relax the accuracies, let the step grow."""
    at = run.at
    accuracy = at.accuracy
    at.last_theta, at.last_z = at.theta, found.z
    at.theta, at.x, at.value = to.theta, to.x, to.value
    recent = (*at.recent, to.before)
    at.recent = recent[max(0, len(recent) + 1 - rules.memory) :]
    at.step += 1
    run.record(
        Step(
            step=at.step,
            value=to.value,
            bound=to.upper,
            accuracy=accuracy,
            residual=run.residual,
            length=to.length,
            norm=found.norm,
            error_bound=found.omega,
            trials=tried,
            refinements=refined,
            cost=run.oracle.counts.cost,
        )
    )
    factor = rules.relax
    if rules.share is not None:
        decrease = to.length * square(found.norm)
        factor = _factor(run, rules.share * decrease / to.slope if to.slope else math.inf)
        if run.options.certify and found.omega:
            # omega grows with eps: beyond this the next test on it is lost in advance.
            factor = min(factor, (1 - rules.eta) * found.norm / found.omega)
    run.scale_accuracy(factor)
    at.length = rules.grow * to.length
