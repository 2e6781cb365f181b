"""What a bilevel method returns: where it came to, how, at what cost, and why it stopped."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .oracle import Counts


class Status(StrEnum):
    """Why a run stopped; `Status.X.remedy` says what to do about it."""

    GRADIENT_TOLERANCE = "the hypergradient is within its tolerance"
    MAX_STEPS = "all outer steps are done"
    BUDGET = "the budget is spent"
    ACCURACY_FLOOR = "the floating-point type allows no higher accuracy"
    LINE_SEARCH = "no step that the search tried was certain to go down"
    LOWER_LEVEL = "the lower level's solver spent its iterations"
    ENDED = "the package's method came to its own end"

    @property
    def remedy(self) -> str:
        """What to do where that is too early."""
        return _REMEDIES[self]


_REMEDIES = {
    Status.GRADIENT_TOLERANCE: "lower `tolerance` to go on",
    Status.MAX_STEPS: "raise `max_steps`, and pass `state`, to go on",
    Status.BUDGET: "raise `budget`, and pass `state`, to go on",
    Status.ACCURACY_FLOOR: "this is as far as it goes; in float32, try float64",
    Status.LINE_SEARCH: "lower `step` or `accuracy`, or raise `refinements`",
    Status.LOWER_LEVEL: "raise `max_iterations`, or take another `solver`",
    Status.ENDED: "a smaller `accuracy` may let it see farther",
}


@dataclass(frozen=True)
class Step:
    """An outer step that was made.

    Attributes:
        step: from 1.
        value: g at the new point's inexact solution, the mean over samples.
        bound: U, which the exact f at the new point does not exceed.
        accuracy: eps with which the step was taken.
        residual: delta.
        length: alpha.
        norm: |z|.
        error_bound: omega; infinite where constants are missing.
        trials: steps that were tried.
        refinements: how often accuracy was tightened in this step.
        cost: of the run so far: lower gradients, Hessian-vector and mixed products.
    """

    step: int
    value: float
    bound: float
    accuracy: float
    residual: float
    length: float
    norm: float
    error_bound: float
    trials: int
    refinements: int
    cost: int


# Called after every outer step, with the state to go on from behind it.
Callback = Callable[[Step, dict[str, Any]], object]


@dataclass(frozen=True)
class Result:
    """What `maid`, `hoag` and `fixed_accuracy` return.

    Attributes:
        theta: the best that was found, like theta0.
        x: the lower level's inexact solution there, like x0.
        value: the upper level there, the mean over samples.
        status: why the run stopped.
        message: that, and what to do about it.
        history: the steps that were made, those before `state` included.
        counts: what was computed, likewise.
        state: numbers and tensors to go on from, `maid(..., state=...)`, to the same points
            bit for bit; the first gradient is computed, and counted, again.
        failed_searches: line searches in which no step was accepted.
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
