"""The record of a run, as `Explorer(log=...)` writes it, read into columns of numbers.

Lines are read as they come, so that a record may be of any length and may still grow. A step
that is not later than the one before it tells that the run was resumed from a checkpoint: all
that stands from there on was thrown away by the restart, and vanishes here too. Lines that are
not whole are passed over: a killed run may leave one.

Nothing here imports torch: a record copied from a cluster is read anywhere.
"""

import json
import math
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .lines import Quantity, Row, parsed

FORMAT = 1
SEARCHING = ("climb", "settle", "trial", "warmup")  # the phases of the search
_EVENTS = {"rollbacks": "rollback", "exclusions": "left out", "new_levels": "new level"}
# What a header has to have.
_HEADER: dict[str, Callable[[Any], bool]] = {
    "written": lambda x: isinstance(x, list) and x != [] and all(map(_is_number, x)),
    "explored": lambda x: isinstance(x, list) and all(isinstance(name, str) for name in x),
    "sync_every": lambda x: isinstance(x, int) and x > 0,
    "replicas": lambda x: isinstance(x, int) and x > 0,
}


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and abs(x) <= sys.float_info.max


class RecordError(ValueError):
    """What was given is no record; the message says what it is, and the remedy."""


class Event(NamedTuple):
    """Something that happens seldom: its row, "rollback", "left out" or "new level", words."""

    row: int
    kind: str
    words: str


@dataclass
class Record:
    """A run so far.

    Attributes:
        path: of the file.
        header: the newest one.
        resumed: the steps at which the run went on from a checkpoint.
        steps: of each row.
        times: when it was written, in milliseconds since the epoch.
        sync_ms: how long the last sync took.
        probe_ms: how long the probe took at it.
        phases: as in `Explorer.metrics()`.
        rates: of the first `MOST_DRAWN` parameter groups, in effect.
        loss: of training, the mean over the replicas.
        probe: their loss on the probe.
        others: whatever else is explored, by name.
        counts: of what happens seldom, by the record's names.
        words: decisions, by row.
        latest: the newest line that has everything.
        searched: the rates that the search ended with, by parameter group; empty before.
    """

    path: Path
    header: dict[str, Any] = field(default_factory=dict)
    resumed: list[int] = field(default_factory=list)
    steps: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    sync_ms: "array[float]" = field(default_factory=lambda: array("d"))
    probe_ms: "array[float]" = field(default_factory=lambda: array("d"))
    phases: list[str] = field(default_factory=list)
    rates: list[Quantity] = field(default_factory=list)
    loss: Quantity = field(default_factory=Quantity)
    probe: Quantity = field(default_factory=Quantity)
    others: dict[str, Quantity] = field(default_factory=dict)
    counts: "dict[str, array[int]]" = field(
        default_factory=lambda: {name: array("q") for name in _EVENTS}
    )
    words: dict[int, str] = field(default_factory=dict)
    latest: dict[str, Any] = field(default_factory=dict)
    searched: list[float] = field(default_factory=list)
    _tried: dict[int, dict[str, Any]] = field(default_factory=dict)
    _left_out: dict[int, list[int]] = field(default_factory=dict)
    _sections: list[int] = field(default_factory=list)  # rows at which a process began

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, lines: Iterable[bytes]) -> None:
        """Take in whole lines of the file.

        Raises:
            RecordError: if the first one is not a header that this version can read.
        """
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            if isinstance(found, dict) and "hdet" in found:
                self._begin(found)
            elif not self.header:
                raise RecordError(
                    f"{self.path} is not the record of a run: its first line is not the header "
                    f'that Explorer(log="...") writes.'
                )
            elif isinstance(found, dict) and isinstance(found.get("step"), int):
                row = parsed(found)
                if row is not None:
                    self._add(row, found)

    def _begin(self, header: dict[str, Any]) -> None:
        """Take in a header: a process begins to write."""
        if header.get("format", 1) != FORMAT:
            raise RecordError(
                f"{self.path} was written by hdet {header['hdet']}, in a newer format "
                f"({header['format']}) than this version reads ({FORMAT}): upgrade hdet."
            )
        for key, good in _HEADER.items():
            if not good(header.get(key)):
                raise RecordError(
                    f"{self.path} has a damaged header: `{key}` is {header.get(key)!r}."
                )
        self.header = header
        self._sections.append(len(self))

    def _add(self, row: Row, line: dict[str, Any]) -> None:
        """Take in what a line tells."""
        if self.steps and row.step <= self.steps[-1]:
            self._cut(row.step)
        place = len(self)
        if self._sections[-1] == place > 0 and row.step not in self.resumed:
            self.resumed.append(row.step)
        self.steps.append(row.step)
        self.phases.append(row.phase)
        columns = (self.times, self.sync_ms, self.probe_ms)
        for column, value in zip(columns, row.times, strict=True):
            column.append(value)
        for _ in range(len(row.rates) - len(self.rates)):
            self.rates.append(Quantity(place))
        none = (math.nan, [])
        for g, rate in enumerate(self.rates):
            rate.add(row.rates[g] if g < len(row.rates) else none)
        self.loss.add(row.loss)
        self.probe.add(row.probe)
        for name in row.others:
            self.others.setdefault(name, Quantity(place))
        for name, quantity in self.others.items():
            quantity.add(row.others.get(name, none))
        self._remember(place, line)

    def _remember(self, place: int, line: dict[str, Any]) -> None:
        """Keep what is not a number of each row."""
        for name, column in self.counts.items():
            count = line.get(name)
            before = column[-1] if column else 0
            column.append(count if isinstance(count, int) else before)
        if line.get("decision"):
            self.words[place] = str(line["decision"])
        if isinstance(line.get("excluded"), list) and line["excluded"]:
            self._left_out[place] = line["excluded"]
        if isinstance(line.get("tried"), dict):
            self._tried[place] = line["tried"]
        if isinstance(line.get("values"), dict):
            self.latest = line
            if place > 0 and self.phases[place - 1] in SEARCHING:
                self.searched = line.get("found", [])

    def _cut(self, step: int) -> None:
        """Forget what a restart has thrown away: all from this step on."""
        rows = bisect_left(self.steps, step)
        quantities = (*self.rates, self.loss, self.probe, *self.others.values())
        for quantity in quantities:
            quantity.cut(rows)
        columns = (self.steps, self.times, self.sync_ms, self.probe_ms, self.phases)
        for column in (*columns, *self.counts.values()):
            del column[rows:]
        for kept in (self.words, self._left_out, self._tried):
            for row in [row for row in kept if row >= rows]:
                del kept[row]
        self.resumed = [one for one in self.resumed if one < step]
        self._sections = [min(row, rows) for row in self._sections]
        if self.latest.get("step", 0) >= step:
            self.latest = {}
        if rows == 0 or self.phases[-1] in SEARCHING:
            self.searched = []

    # --- what follows from it

    def events(self) -> list[Event]:
        """Return what happened seldom, in order."""
        found = []
        for name, kind in _EVENTS.items():
            column = self.counts[name]
            for row in range(len(column)):
                before = column[row - 1] if row else 0
                # The first row of a record may be of a run that was resumed.
                if column[row] > before and (row or self.steps[0] <= self.interval):
                    words = self.words.get(row, "")
                    if kind == "left out":
                        words = f"replica {', '.join(map(str, self._left_out.get(row, [])))}"
                    found.append(Event(row, kind, words))
        return sorted(found)

    def spans(self) -> list[tuple[str, int, int]]:
        """Return the phases with their first and last rows; what is held is called so."""
        searched = any(phase in SEARCHING for phase in self.phases[:1])
        found: list[tuple[str, int, int]] = []
        for row, phase in enumerate(self.phases):
            name = "hold" if phase == "track" and searched else phase
            if found and found[-1][0] == name:
                found[-1] = (name, found[-1][1], row)
            else:
                found.append((name, row, row))
            searched |= phase in SEARCHING
        return found

    @property
    def trials(self) -> dict[str, Any]:
        """What the search's trials have tried: loss `before`, `factors` and their `losses`."""
        return [*self._tried.values()][-1] if self._tried else {}

    @property
    def interval(self) -> int:
        """Optimizer steps between two syncs."""
        return self.header["sync_every"]

    @property
    def written(self) -> list[float]:
        """The learning rates that the user wrote, by parameter group."""
        return [float(rate) for rate in self.header["written"]]

    @property
    def found(self) -> list[float] | None:
        """The rates to write into a plain run, by parameter group; None before it is known."""
        rates = self.latest.get("found")
        if rates is None and self.latest:
            values = {**self.latest["values"], **self.latest.get("would_be", {})}
            rates = [x * (values.get(f"lr/{g}") or 1.0) for g, x in enumerate(self.written)]
        return rates

    @property
    def seconds(self) -> float:
        """How long the processes have trained, without the pauses between them."""
        ends = [*self._sections[1:], len(self)]
        pairs = [(a, b) for a, b in zip(self._sections, ends, strict=True) if b - a > 1]
        known = [self.times[b - 1] - self.times[a] for a, b in pairs]
        return sum(x for x in known if x > 0) / 1000
