"""Where a run is, as a state that another run goes on from: plain out, parsed whole back in.

A state is numbers and tensors, for `torch.save`. What is read back has the types, ranges and
shapes that a run writes, and its parts agree; all of it is copied, so that neither the run nor
its reader sees what the other does to it.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ..state import Entries
from .modes import plain
from .oracle import Counts
from .result import Step

_FORMAT = 1
# No rules change an accuracy or a step by more, from one outer step to the next.
_MOST_GROWTH = 1e3
# Nor is g's curvature larger by more behind one step.
_MOST_RISE = 1e6


@dataclass
class Point:
    """Where a run is; all that its next step depends on, but the constants that were found.

    Attributes:
        theta: [p].
        x: inexact solution there, [m, n].
        value: g(x), the mean over samples; infinite where it is not known.
        accuracy: eps; 0 before the first step, where nobody gave one.
        residual: delta, or None.
        length: alpha, or None before the first step.
        step: outer steps made.
        q: last solution of the linear system, [m, n].
        last_theta: where the run was before.
        last_z: the hypergradient there.
        recent: f's lower bounds at the last points.
        failed: searches that ended without a step.
    """

    theta: Tensor
    x: Tensor
    value: float
    accuracy: float
    residual: float | None
    length: float | None
    step: int = 0
    q: Tensor | None = None
    last_theta: Tensor | None = None
    last_z: Tensor | None = None
    recent: tuple[float, ...] = ()
    failed: int = 0

    def copy(self) -> "Point":
        """Return one that shares no tensor with this one."""
        tensors = {k: plain(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Resumed:
    """What a run goes on from.

    Attributes:
        point: where it is.
        counts: what was computed.
        history: the steps that were made.
        constants: entries for `Constants.load_state_dict`.
    """

    point: Point
    counts: Counts
    history: list[Step]
    constants: Entries


def written(
    point: Point, counts: Counts, history: list[dict[str, Any]], constants: dict[str, object]
) -> dict[str, Any]:
    """Return a state that `parsed` reads, with tensors of its own."""
    return {
        "format": _FORMAT,
        "point": dict(vars(point.copy())),
        "constants": constants,
        "counts": asdict(counts),
        "history": list(history),
    }


def parsed(call: str, state: Any, theta: Tensor, x: Tensor) -> Resumed:
    """Read a state.

    Args:
        call: the public name that was called, such as `maid`.
        state: of an earlier `Result`, or callback.
        theta: like those of the run, [p].
        x: likewise, [m, n].

    Raises:
        ValueError: if anything in it is damaged, or of another problem.
    """
    source = "`Result.state`, or a callback,"
    entries = Entries(state, call, call=f"`{call}(state=...)`", source=source)
    # States from before there were formats have the same entries.
    if entries.has("format"):
        entries.format(_FORMAT)
    point = _point(entries.entries("point"), theta, x)
    counts = entries.entries("counts")
    counted = Counts(*(counts.integer(name) for name in asdict(Counts())))
    history = [_step(row, i + 1) for i, row in enumerate(entries.rows("history"))]
    if len(history) != point.step:
        rule = f"must be the {point.step} steps that `point.step` counts, not {len(history)}"
        entries.refuse("history", f"{len(history)} rows", rule)
    constants = entries.entries("constants")
    if history:
        last = history[-1]
        _agree(entries.entries("point"), point, last)
        if last.cost > counted.cost:
            rule = f"must add up to the cost of the last step at least, {last.cost}"
            entries.refuse("counts", counted, rule)
        if point.residual is None:
            # delta was L_g eps, and L_g rises, where g's curvature is larger.
            seen = last.residual / last.accuracy
            smoothness = constants.number("smoothness", low=seen * (1 - 1e-6))
            if smoothness > _MOST_RISE * seen > 0:
                rule = f"must be what the last step's residual tells, about {seen:.6g}"
                constants.refuse("smoothness", smoothness, rule)
    return Resumed(point, counted, history, constants)


def _point(entries: Entries, theta: Tensor, x: Tensor) -> Point:
    def like(other: Tensor, name: str) -> Tensor:
        found = entries.tensor(name, shape=other.shape, dtype=other.dtype)
        return plain(found).to(other.device)

    def maybe(other: Tensor, name: str) -> Tensor | None:
        return None if entries.raw(name) is None else like(other, name)

    at, solution = like(theta, "theta"), like(x, "x")
    step = entries.integer("step")
    accuracy = entries.number("accuracy", low=0)
    if step and not accuracy:
        entries.refuse("accuracy", accuracy, "must be above 0 once a step was made")
    last_theta, last_z = maybe(theta, "last_theta"), maybe(theta, "last_z")
    if (last_theta is None) != (last_z is None):
        entries.refuse("last_z", last_z, "must be there if `point.last_theta` is")
    return Point(
        at,
        solution,
        entries.number("value", finite=False),
        accuracy,
        entries.optional("residual", entries.number, above=0),
        entries.optional("length", entries.number, above=0),
        step,
        maybe(x, "q"),
        last_theta,
        last_z,
        tuple(entries.numbers("recent")),
        entries.integer("failed"),
    )


def _agree(entries: Entries, point: Point, last: Step) -> None:
    """Raise a `ValueError` unless a point may be what the last step left behind."""
    for name in ("length", "q"):
        if getattr(point, name) is None:
            entries.refuse(name, None, "must be there once a step was made")
    for name, now, before in (
        ("accuracy", point.accuracy, last.accuracy),
        ("length", point.length or 0.0, last.length),
    ):
        if now > _MOST_GROWTH * before:
            rule = f"must not be more than {_MOST_GROWTH:g} times the last step's, {before:.6g}"
            entries.refuse(name, now, rule)
    if point.residual is not None:
        expected = last.residual * (point.accuracy / last.accuracy)
        if not math.isclose(point.residual, expected, rel_tol=1e-6):
            rule = f"must have changed as the accuracy has, to {expected:.6g}"
            entries.refuse("residual", point.residual, rule)


def _step(entries: Entries, number: int) -> Step:
    return Step(
        step=entries.integer("step", low=number, high=number),
        value=entries.number("value"),
        bound=entries.number("bound", finite=False),
        accuracy=entries.number("accuracy", above=0),
        residual=entries.number("residual", low=0),
        length=entries.number("length", above=0),
        norm=entries.number("norm", low=0),
        error_bound=entries.number("error_bound", low=0, finite=False),
        trials=entries.integer("trials"),
        refinements=entries.integer("refinements"),
        cost=entries.integer("cost"),
    )
