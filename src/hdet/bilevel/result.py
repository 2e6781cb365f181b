"""What a bilevel method returns: where it arrived, how, at what cost, and why it stopped."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .linear import Ending
from .oracle import Counts


class Status(str, Enum):
    """Why a run stopped; `Status.X.remedy` says what to do about it."""

    __str__ = str.__str__

    GRADIENT_TOLERANCE = "the hypergradient is within its tolerance"
    MAX_STEPS = "all outer steps are done"
    BUDGET = "the budget is spent"
    ACCURACY_FLOOR = "the floating-point type allows no higher accuracy"
    LINE_SEARCH = "no step of the line search was certain to decrease f"
    LOWER_LEVEL = "the lower level's solver used up its iterations"
    ENDED = "the package's method ended by its own rule"

    @property
    def remedy(self) -> str:
        """What to do if that is too early."""
        return _REMEDIES[self]

    @property
    def message(self) -> str:
        """The reason and the remedy as a sentence."""
        return f"Stopped because {self.value}; {self.remedy}."


_REMEDIES = {
    Status.GRADIENT_TOLERANCE: "lower `tolerance` to go on",
    Status.MAX_STEPS: "raise `max_steps`, and pass `state`, to go on",
    Status.BUDGET: "raise `budget`, and pass `state`, to go on",
    Status.ACCURACY_FLOOR: "in float32, try float64; in float64, this is as far as it goes",
    Status.LINE_SEARCH: "lower `step` or `accuracy`, or raise `refinements`",
    Status.LOWER_LEVEL: "raise `max_iterations`, or take another `solver`",
    Status.ENDED: "lower `accuracy`, so that smaller differences of f count",
}
# The status of a run that needs more than a solver reached.
SHORT = {Ending.FLOOR: Status.ACCURACY_FLOOR, Ending.ITERATIONS: Status.LOWER_LEVEL}


@dataclass(frozen=True, kw_only=True)
class Step:
    """An outer step that was made; NaN is what its method does not have.

    Attributes:
        step: its number, from 1.
        value: g at the new point's inexact solution, the mean over samples.
        bound: U, an upper bound on the exact f at the new point.
        accuracy: eps with which the step was taken.
        residual: delta.
        step_size: alpha.
        norm: |z|.
        error_bound: omega; infinite if constants are missing.
        trials: the number of step sizes that were tried.
        refinements: how often the accuracy was tightened in this step.
        cost: of the run so far: lower gradients, Hessian-vector and mixed products.
    """

    step: int
    value: float
    bound: float
    accuracy: float
    residual: float = math.nan
    step_size: float = math.nan
    norm: float = math.nan
    error_bound: float = math.nan
    trials: int = 1
    refinements: int = 0
    cost: int


# Called after every outer step, with its record and the state to go on from.
Callback = Callable[[Step, dict[str, Any]], object]


@dataclass(frozen=True)
class Result:
    """What the outer methods return.

    Attributes:
        theta: the hyperparameters that were found, like theta0.
        x: the lower level's inexact solution there, like x0.
        value: the upper level there, the mean over samples.
        status: why the run stopped.
        message: that, and what to do about it.
        history: the steps that were made, those before `state` included.
        counts: what was computed, likewise.
        state: numbers and tensors to go on from, as in `maid(..., state=...)`, to the same
            points bit for bit; the first gradient is computed, and counted, again.
        failed_searches: the number of line searches that accepted no step; for `hoag`, of
            steps that were refused.
    """

    theta: Any
    x: Any
    value: float
    status: Status
    message: str
    history: list[Step]
    counts: Counts
    state: dict[str, Any] = field(repr=False)
    failed_searches: int = 0
