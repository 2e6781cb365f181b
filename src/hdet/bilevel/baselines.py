"""What MAID is compared with: a fixed accuracy, and HOAG's schedules of accuracies.

`fixed_accuracy` is MAID's line search with an accuracy that never changes; a search that fails
ends the run. HOAG tightens the accuracy by a fixed schedule, and takes steps of 1/L, where L
falls by 5 % after a step that decreases g enough and doubles if g rises by a fifth. A refused
step goes back, and g is compared with its value there, so that refusals do not repeat forever.

Sources: arXiv 2308.10098 for the first; F. Pedregosa, "Hyperparameter optimization with
approximate gradient", ICML 2016, and the constants of fabianp/hoag for the second.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from ..errors import require_choice
from .bounds import upper_bound
from .descent import Method, minimise
from .hypergradient import Evaluator
from .linear import Ending
from .maid import Maid
from .oracle import NonFiniteError, norms, square
from .problem import Problem
from .result import SHORT, Callback, Result, Status, Step
from .resuming import State
from .rules import Rules, rules_of
from .solvers import Solver

# eps_k of outer step k, from 1, as a part of eps_0.
SCHEDULES = {
    "exponential": lambda k: 0.9 ** (k - 1),
    "quadratic": lambda k: 1 / k**2,
    "cubic": lambda k: 1 / k**3,
}
_C, _FALL, _RISE, _REFUSED = 0.25, 0.95, 2.0, 1.2
# eps_0 if the user gave none, as a part of |x| at theta0. 1e-3 is what HOAG's author takes; a
# fixed accuracy has to serve the last step as well.
_HOAG_ACCURACY, _FIXED_ACCURACY = 1e-3, 1e-5


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
    """Minimise f by MAID's line search at one accuracy; more on the arguments at `maid`.

    Args:
        problem: the two levels.
        theta0: where to start.
        x0: where the first lower-level solve starts.
        accuracy: eps of every solve, in units of x. None is 1e-5 of |x| at theta0, by a rough
            solve that counts: it depends neither on units nor on how far mu is below h's
            curvature.
        residual: delta of every linear solve. None is L_g eps.
        step: alpha0.
        max_steps: the largest number of outer steps.
        budget: the largest cost.
        tolerance: |z| at which to stop.
        rules: the constants of the search; `tighten`, `relax`, `share` and `refinements` are
            not used.
        solver: of the lower level.
        max_iterations: the largest number of iterations of the solver.
        callback: called after every outer step.
        state: of an earlier result or callback.

    Returns:
        The result; its status is `LINE_SEARCH` where the accuracy allows no further step.

    Raises:
        ValueError: as `maid`.
    """
    call, rules = "fixed_accuracy", rules_of("fixed_accuracy", rules)
    method = Maid(
        rules=replace(rules, tighten=1.0, relax=1.0, share=None, refinements=0),
        max_steps=max_steps,
        tolerance=tolerance,
        first_accuracy=_FIXED_ACCURACY,
    )
    f = Evaluator(call, problem, theta0, x0, solver, max_iterations, budget)
    return minimise(f, method, theta0, x0, (accuracy, residual, step), callback, state)


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
    """Minimise f by HOAG; more on the arguments at `maid`.

    Args:
        problem: the two levels.
        theta0: where to start.
        x0: where the first lower-level solve starts.
        schedule: of eps: "exponential", 0.9^(k-1); "quadratic", 1/k^2; "cubic", 1/k^3.
        accuracy: eps of the first step, in units of x. HOAG's test of a step, which has no
            units, uses the same number as the error of g and of |z|. None is 1e-3 of |x| at
            theta0, by a rough solve that counts; the test then uses |grad g| eps, and the part
            eps / |x| of |z|, so that nothing depends on units.
        residual: delta of the first step, which follows eps. None is L_g eps.
        step: 1/L of the first step. None is sqrt(p)/|z| for p hyperparameters, as its author.
        max_steps: the largest number of outer steps, refused ones included.
        budget: the largest cost.
        tolerance: |z| at which to stop.
        solver: of the lower level.
        max_iterations: the largest number of iterations of the solver.
        callback: called after every outer step.
        state: of an earlier result or callback.

    Returns:
        The result, with the last point: f may rise from step to step.

    Raises:
        ValueError: as `maid`, or if there is no such schedule.
    """
    require_choice(
        "hoag", "schedule", schedule, list(SCHEDULES), 'the default is "exponential"'
    )
    method = Hoag(
        schedule=schedule,
        relative=accuracy is None,
        max_steps=max_steps,
        tolerance=tolerance,
        first_accuracy=_HOAG_ACCURACY,
    )
    f = Evaluator("hoag", problem, theta0, x0, solver, max_iterations, budget)
    return minimise(f, method, theta0, x0, (accuracy, residual, step), callback, state)


@dataclass(frozen=True, kw_only=True)
class Hoag(Method):
    """HOAG; `relative` if the first accuracy was not given, but found as a part of |x|."""

    schedule: str
    relative: bool

    def step(self, f: Evaluator, state: State) -> State:
        """Compute z at eps_k, move, and compare f before and after at eps_{k+1}."""
        found, state = f.hypergradient(state, certify=False)
        if self.at_rest(found):
            return replace(state, status=Status.GRADIENT_TOLERANCE)
        if found.ending is not Ending.MET:
            return replace(state, status=SHORT[found.ending])
        number, norm, before = state.step + 1, found.norm, found.mean
        step_size = state.step_size or len(state.theta) ** 0.5 / norm
        accuracy, residual = state.accuracy, f.residual(state)
        part_at = SCHEDULES[self.schedule]
        state = state.with_accuracy_times(part_at(number + 1) / part_at(number))
        bound = upper_bound(
            found.value, found.upper_grad_norm, found.accuracy, f.constants.smoothness
        )
        theta, solved, after = state.theta - step_size * found.z, None, math.inf
        try:
            solved = f.evaluate(theta, found.x, state.accuracy)
            after = float(solved[1].mean())
        except NonFiniteError:
            # A step that leads to where a level overflows is refused like any other.
            pass
        # The errors that eps may cause: in g on either side of the step, and in z.
        error, wrong = state.accuracy, accuracy
        if self.relative:
            error *= float(found.upper_grad_norm.mean())
            wrong = _HOAG_ACCURACY * part_at(number) * norm
        moved = step_size * norm
        allowed = before + _C * error + wrong * (_C + 1) * moved - square(moved) / step_size
        # Negated, so that NaN is refused.
        if solved is None or not (after <= allowed or after < _REFUSED * before):
            state = replace(state, step_size=step_size / _RISE, failed=state.failed + 1)
        else:
            solution, value, gradient = solved
            grown = step_size / _FALL if after <= allowed else step_size
            state = replace(state, theta=theta, x=solution.x, value=after, step_size=grown)
            smooth = f.constants.smoothness
            bound = upper_bound(value, norms(gradient), solution.accuracy, smooth)
        step = Step(
            step=number,
            value=state.value,
            bound=bound,
            accuracy=accuracy,
            residual=residual,
            step_size=step_size,
            norm=norm,
            error_bound=found.omega,
            cost=f.oracle.counts.cost,
        )
        return replace(state, history=(*state.history, step))
