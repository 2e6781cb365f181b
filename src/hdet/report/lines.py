"""One line of a record, checked before any of it is taken."""

import math
from array import array
from typing import Any, NamedTuple

MOST_DRAWN = 8  # parameter groups, and as many other hyperparameters, that are kept in full

_COUNTS = 2**63  # the least number that a column of whole ones cannot hold
_LATEST = 1e14  # milliseconds since the epoch: the year 5138
Numbers = list[float]
Values = tuple[float, Numbers]  # of the run, and of each replica


class Row(NamedTuple):
    """What a line tells of a step, in numbers; NaN for none."""

    step: int
    phase: str
    times: tuple[float, float, float]  # since the epoch, of the sync, of the probe, in ms
    rates: list[Values]
    loss: Values
    probe: Values
    others: dict[str, Values]


def parsed(line: dict[str, Any]) -> Row | None:
    """Return what a line tells of a step; None where it is damaged."""
    get = line.get
    try:
        _check_tables(line)
        rows = line["replica_lr"][:MOST_DRAWN]
        rates = list(
            zip(_numbers(line["base_lr"])[: len(rows)], map(_numbers, rows), strict=True)
        )
        losses, probes = _numbers(get("losses")), _numbers(get("probes"))
        loss = (_mean(losses), losses)
        if "loss" in line:  # one replica's, in the climb
            loss = (_number(line["loss"]), [])
        others = {}
        if values := get("values"):
            names = [name for name in values if not name.startswith("lr/")]
            each = line["replica_values"]
            others = {n: (_number(values[n]), _numbers(each[n])) for n in names[:MOST_DRAWN]}
        times = _moment(get("time_ms")), _number(get("sync_ms")), _number(get("probe_ms"))
        probe = (_mean(probes), probes)
        return Row(line["step"], str(get("phase")), times, rates, loss, probe, others)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def _check_tables(line: dict[str, Any]) -> None:
    """Raise where what is kept of a line as it stands is not what it has to be."""
    for key in ("step", "rollbacks", "exclusions", "new_levels"):
        if isinstance(count := line.get(key), int) and abs(count) >= _COUNTS:
            raise ValueError
    for key in ("values", "would_be", "slope", "t"):
        _numbers([*line.get(key, {}).values()])
    tried = line.get("tried", {})
    _numbers([tried.get("before"), *tried.get("losses", [])])
    if None in _known([*line.get("found", []), *tried.get("factors", [])]):
        raise ValueError


def _known(values: list[Any]) -> list[Any]:
    """Return numbers, and None for what is none or is not finite."""
    return [float(x) if x is not None and math.isfinite(x) else None for x in values]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _moment(value: Any) -> float:
    """Return milliseconds since the epoch, NaN where no clock tells such a time."""
    moment = _number(value)
    return moment if 0 <= moment < _LATEST else math.nan


def _numbers(values: Any) -> Numbers:
    """Return floats, NaN for what JSON has no number for."""
    if not values:
        return []
    try:
        return array("d", values).tolist()
    except TypeError:
        return [_number(x) for x in values]


def _mean(values: Numbers) -> float:
    finite = [x for x in values if x == x]
    return math.fsum(finite) / len(finite) if finite else math.nan


class Quantity:
    """One number over the rows of a record, of the run and of each replica; NaN for none.

    Args:
        rows: how many there are already, without a number.
    """

    def __init__(self, rows: int = 0) -> None:
        self.base = array("d", [math.nan] * rows)
        self.replicas: list[array[float]] = []

    def add(self, values: Values) -> None:
        """Append a row. The number of replicas may change when a run is resumed."""
        base, replicas = values
        for _ in range(len(replicas) - len(self.replicas)):
            self.replicas.append(array("d", [math.nan] * len(self.base)))
        self.base.append(base)
        if len(replicas) < len(self.replicas):
            replicas = [*replicas, *[math.nan] * (len(self.replicas) - len(replicas))]
        for column, value in zip(self.replicas, replicas, strict=True):
            column.append(value)

    def cut(self, rows: int) -> None:
        """Keep the first rows alone."""
        for column in (self.base, *self.replicas):
            del column[rows:]

    @property
    def ends_broken(self) -> bool:
        """Whether there were numbers, and the last row, which has its replicas', has none."""
        given = bool(self.replicas) and self.known
        return given and self.base[-1] != self.base[-1]

    @property
    def known(self) -> bool:
        """Whether there is any number."""
        return any(x == x for x in self.base)
