"""The immutable state of an outer method, and its form as plain numbers and tensors.

What is written is for `torch.save`. What is read back must have the types, ranges and shapes
that a run writes, and its parts must agree. All tensors are copied both ways, so that a run
and the reader of its state do not affect each other.
"""

import math
from dataclasses import asdict, dataclass, replace
from sys import float_info
from typing import Any

from torch import Tensor

from ..state import Entries
from .modes import plain
from .oracle import Counts
from .result import Status, Step

# Format 1, and states without a format, call step sizes `length`.
_FORMAT, _OLD_FORMAT = 2, 1
# No method changes an accuracy or a step size by more from one outer step to the next.
_LARGEST_GROWTH = 1e3
# Nor does one step lead to where g's curvature is larger by more.
_LARGEST_RISE = 1e6


@dataclass(frozen=True)
class State:
    """Where a run is: all that its next step depends on, except for estimated constants."""

    theta: Tensor  # [p]
    x: Tensor  # the inexact solution there, [m, n]
    value: float  # g(x), the mean over samples; infinite where it is not known
    accuracy: float  # eps; 0 until the method chooses one, if the user gave none
    residual: float | None  # delta; None follows eps
    step_size: float | None  # alpha; None before the first step
    q: Tensor | None = None  # the last solution of the linear system, [m, n]
    last_theta: Tensor | None = None  # before the last step
    last_z: Tensor | None = None  # the hypergradient there
    recent: tuple[float, ...] = ()  # lower bounds on f at the last points
    failed: int = 0  # searches that ended without a step
    history: tuple[Step, ...] = ()
    status: Status | None = None  # why the method stops here

    @property
    def step(self) -> int:
        """The number of outer steps that were made."""
        return len(self.history)

    def with_accuracy_times(self, factor: float) -> "State":
        """Return a state with eps and delta multiplied; 0 is no accuracy, so neither is."""
        accuracy, residual = max(factor * self.accuracy, float_info.min), self.residual
        if residual is not None:
            residual = max(factor * residual, float_info.min)
        return replace(self, accuracy=accuracy, residual=residual)


def written(state: State, counts: Counts, constants: dict[str, object]) -> dict[str, Any]:
    """Return what `parsed` reads, with tensors of its own."""
    point = {
        name: plain(value) if isinstance(value, Tensor) else value
        for name, value in vars(state).items()
        if name not in ("history", "status")
    }
    return {
        "format": _FORMAT,
        "point": point | {"step": state.step},
        "constants": constants,
        "counts": asdict(counts),
        # Not `asdict`, which takes longer than many a step.
        "history": [dict(vars(step)) for step in state.history],
    }


def parsed(call: str, saved: Any, theta: Tensor, x: Tensor) -> tuple[State, Counts, Entries]:
    """Read what `written` returned; theta and x are like those of the run.

    Returns:
        The state, the counts, and the entries for `Constants.load_state_dict`.

    Raises:
        ValueError: if anything in it is damaged, or of another problem.
    """
    source = "`Result.state`, or a callback,"
    entries = Entries(saved, call, call=f"`{call}(state=...)`", source=source)
    old = not entries.has("format") or entries.format(_OLD_FORMAT, _FORMAT) == _OLD_FORMAT
    step_size = "length" if old else "step_size"
    point = entries.entries("point")
    history = tuple(
        _step(row, i + 1, step_size) for i, row in enumerate(entries.rows("history"))
    )
    state = _state(point, theta, x, history, step_size)
    inside = entries.entries("counts")
    counts = Counts(*(inside.integer(name) for name in asdict(Counts())))
    constants = entries.entries("constants")
    if history:
        last = history[-1]
        _check_agreement(point, state, step_size)
        if last.cost > counts.cost:
            rule = f"must add up to at least the cost of the last step, {last.cost}"
            entries.refuse("counts", counts, rule)
        if state.residual is None:
            # delta was L_g eps, and L_g never falls.
            seen = last.residual / last.accuracy
            smoothness = constants.number("smoothness", low=seen * (1 - 1e-6))
            if smoothness > _LARGEST_RISE * seen > 0:
                rule = f"must fit the last step's residual, about {seen:.6g}"
                constants.refuse("smoothness", smoothness, rule)
    return state, counts, constants


def _state(
    entries: Entries, theta: Tensor, x: Tensor, history: tuple[Step, ...], step_size: str
) -> State:
    def tensor(name: str, like: Tensor, needed: bool = False) -> Any:
        if entries.raw(name) is None and not needed:
            return None
        found = entries.tensor(name, shape=like.shape, dtype=like.dtype)
        return plain(found).to(like.device)

    at, solution = tensor("theta", theta, needed=True), tensor("x", x, needed=True)
    accuracy = entries.number("accuracy", low=0)
    if history and not accuracy:
        entries.refuse("accuracy", accuracy, "must be above 0 once a step was made")
    last_theta, last_z = tensor("last_theta", theta), tensor("last_z", theta)
    if (last_theta is None) != (last_z is None):
        entries.refuse("last_z", last_z, "must be there if `point.last_theta` is")
    step = entries.integer("step")
    if step != len(history):
        entries.refuse(
            "step", step, f"must be the number of steps in `history`, {len(history)}"
        )
    return State(
        at,
        solution,
        entries.number("value", finite=False),
        accuracy,
        entries.optional("residual", entries.number, above=0),
        entries.optional(step_size, entries.number, above=0),
        tensor("q", x),
        last_theta,
        last_z,
        tuple(entries.numbers("recent")),
        entries.integer("failed"),
        history,
    )


def _check_agreement(entries: Entries, state: State, step_size: str) -> None:
    """Raise a `ValueError` unless the last step may have left such a state."""
    last = state.history[-1]
    for name, value in ((step_size, state.step_size), ("q", state.q)):
        if value is None:
            entries.refuse(name, None, "must be there once a step was made")
    for name, now, before in (
        ("accuracy", state.accuracy, last.accuracy),
        (step_size, state.step_size or 0.0, last.step_size),
    ):
        if now > _LARGEST_GROWTH * before:
            rule = f"must be at most {_LARGEST_GROWTH:g} times the last step's, {before:.6g}"
            entries.refuse(name, now, rule)
    if state.residual is not None:
        expected = last.residual * (state.accuracy / last.accuracy)
        if not math.isclose(state.residual, expected, rel_tol=1e-6):
            rule = f"must have changed as the accuracy has, to {expected:.6g}"
            entries.refuse("residual", state.residual, rule)


def _step(entries: Entries, number: int, step_size: str) -> Step:
    return Step(
        step=entries.integer("step", low=number, high=number),
        value=entries.number("value"),
        bound=entries.number("bound", finite=False),
        accuracy=entries.number("accuracy", above=0),
        residual=entries.number("residual", low=0),
        step_size=entries.number(step_size, above=0),
        norm=entries.number("norm", low=0),
        error_bound=entries.number("error_bound", low=0, finite=False),
        trials=entries.integer("trials"),
        refinements=entries.integer("refinements"),
        cost=entries.integer("cost"),
    )
