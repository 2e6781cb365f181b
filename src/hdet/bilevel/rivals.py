"""What MAID is measured against: a fixed accuracy, and HOAG's schedules.

`fixed_accuracy` is MAID's line search where accuracy never changes; a search that fails ends
it. HOAG decreases accuracy by a schedule whatever happens, and steps by 1 / L, where L falls by
5 % as long as g behaves and doubles where g has risen by a fifth. A step that is refused goes
back, and L and the value to beat are those of where it went back to: the next step differs.

Sources: arXiv 2308.10098 for the first; F. Pedregosa, "Hyperparameter optimization with
approximate gradient", ICML 2016, and the constants of fabianp/hoag for the second.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import require
from .bounds import upper_bound
from .descent import Options, Run, short_of
from .endings import Ending
from .maid import Rules, outer_step, rules_of
from .oracle import NonFiniteError, square
from .problem import Problem
from .result import Callback, Result, Status, Step
from .solvers import Solver

# eps_k of outer step k from 1, as a part of eps_0.
SCHEDULES = {
    "exponential": lambda k: 0.9 ** (k - 1),
    "quadratic": lambda k: 1 / k**2,
    "cubic": lambda k: 1 / k**3,
}
_C, _FALL, _RISE, _REFUSED = 0.25, 0.95, 2.0, 1.2
# eps_0 where nobody gave one, as a part of x's length at theta0: 1e-3 is what HOAG's author
# takes; a fixed accuracy has to serve the last step as well.
_HOAG_FIRST, _FIXED_FIRST = 1e-3, 1e-5


def fixed_accuracy(
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
    rules: Rules | None = None,
    solver: str | Solver = "newton-cg",
    max_iterations: int = 1000,
    callback: Callback | None = None,
    state: dict[str, Any] | None = None,
) -> Result:
    """Minimise f by MAID's line search at one accuracy; arguments and errors as `maid`.

    Args:
        problem: the two levels.
        theta0: where to begin.
        x0: where the first lower-level solve begins.
        accuracy: eps, of every solve, in units of x. None: 1e-5 of x's length at theta0, by
            a rough solve that counts; nothing then depends on units, or on how far below h's
            curvature mu is.
        residual: delta, of every linear solve. None: L_g eps.
        step: alpha0.
        max_steps: outer steps in all.
        budget: largest cost.
        tolerance: |z| at which to stop.
        rules: the search's constants; `tighten`, `relax`, `share` and `refinements` do not
            count.
        solver: of the lower level.
        max_iterations: of the solver.
        callback: called after every outer step.
        state: of an earlier result.
    """
    rules = rules_of("fixed_accuracy", rules)
    held = replace(rules, tighten=1.0, relax=1.0, share=None, refinements=0)
    options = Options(
        accuracy=accuracy,
        residual=residual,
        step=step,
        max_steps=max_steps,
        budget=budget,
        tolerance=tolerance,
        certify=False,
        solver=solver,
        max_iterations=max_iterations,
        callback=callback,
        state=state,
        first=_FIXED_FIRST,
    )
    run = Run("fixed_accuracy", problem, theta0, x0, options)
    return run.descend(lambda run: outer_step(run, held))


def hoag(
    problem: Problem,
    theta0: Any,
    x0: Any,
    *,
    schedule: str = "exponential",
    accuracy: float | None = None,
    residual: float | None = None,
    step: float | None = None,
    max_steps: int = 100,
    budget: int | None = None,
    tolerance: float = 0.0,
    solver: str | Solver = "newton-cg",
    max_iterations: int = 1000,
    callback: Callback | None = None,
    state: dict[str, Any] | None = None,
) -> Result:
    """Minimise f by HOAG; arguments and errors as `maid`, and one argument more.

    Args:
        problem: the two levels.
        theta0: where to begin.
        x0: where the first lower-level solve begins.
        schedule: of eps: "exponential", 0.9^(k-1); "quadratic", 1/k^2; "cubic", 1/k^3.
        accuracy: eps of the first step, in units of x; HOAG's test of a step, which has no
            units, takes the same number for what g and |z| may be off. None: 1e-3 of x's
            length at theta0, by a rough solve that counts; the test then takes |grad g| eps
            and the part eps / |x| of |z|, so that nothing depends on units.
        residual: delta of the first step. None: L_g eps, which follows eps.
        step: 1/L of the first step. None: sqrt(p)/|z| for p hyperparameters, as its author.
        max_steps: outer steps in all, refused ones included.
        budget: largest cost.
        tolerance: |z| at which to stop.
        solver: of the lower level.
        max_iterations: of the solver.
        callback: called after every outer step.
        state: of an earlier result.

    Returns:
        The result, with the last point: f may rise from step to step.
    """
    words = f"write one of {', '.join(SCHEDULES)}"
    good = isinstance(schedule, str) and schedule in SCHEDULES
    require(good, "hoag", "schedule", schedule, "is not known", words)
    options = Options(
        accuracy=accuracy,
        residual=residual,
        step=step,
        max_steps=max_steps,
        budget=budget,
        tolerance=tolerance,
        certify=False,
        solver=solver,
        max_iterations=max_iterations,
        callback=callback,
        state=state,
        first=_HOAG_FIRST,
    )
    run = Run("hoag", problem, theta0, x0, options)
    return run.descend(lambda run: _hoag_step(run, SCHEDULES[schedule]))


def _hoag_step(run: Run, ratio: Callable[[int], float]) -> Status | None:
    """HOAG's step: hypergradient at eps_k, move, and judge the move at eps_{k+1}."""
    at = run.at
    found = run.estimate()
    if run.at_rest(found):
        return Status.GRADIENT_TOLERANCE
    if found.ending is not Ending.MET:
        return short_of(found.ending)
    length = at.length or len(at.theta) ** 0.5 / found.norm
    accuracy, residual = at.accuracy, run.residual
    run.scale_accuracy(ratio(at.step + 2) / ratio(at.step + 1))
    theta = at.theta - length * found.z
    smooth = run.constants.smoothness
    bound = upper_bound(found.value, found.slope, found.accuracy, smooth)
    try:
        solved = run.solve(theta, found.x)
    except NonFiniteError:
        # A step that leads to where h overflows is refused like any other.
        solved = None
    before, after = float(found.value.mean()), float(solved[1].mean()) if solved else math.inf
    moved = length * found.norm
    # What eps may do to g, before and behind the step, and to z.
    error, wrong = at.accuracy, accuracy
    if run.options.accuracy is None:
        error *= float(found.slope.mean())
        wrong = _HOAG_FIRST * ratio(at.step + 1) * found.norm
    allowed = before + _C * error + wrong * (_C + 1) * moved - square(moved) / length
    # Not the other way round: what is not finite is refused.
    if solved is None or not (after <= allowed or after < _REFUSED * before):
        at.length = length / _RISE
        at.failed += 1
    else:
        at.length = length / _FALL if after <= allowed else length
        solution, value, slope = solved
        at.theta, at.x, at.value = theta, solution.x, after
        bound = upper_bound(value, slope, solution.accuracy, run.constants.smoothness)
    at.step += 1
    run.record(
        Step(
            step=at.step,
            value=at.value,
            bound=bound,
            accuracy=accuracy,
            residual=residual,
            length=length,
            norm=found.norm,
            error_bound=found.omega,
            trials=1,
            refinements=0,
            cost=run.oracle.counts.cost,
        )
    )
    return None
