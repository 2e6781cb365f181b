"""What the server remembers of each client: one row of numbers, found by the client's id.

Rows are given out in the order in which ids first appear, and never taken back, so a client
that vanishes and returns finds its past. The numbers stand in one tensor per statistic, so that
a million clients are scored by a few tensor operations.

An invitation counts when it is sent, and a reply when it comes:

    invitations, last_invited   whom the server asked: fairness and staleness go by these
    answers, last_answered      whose reply came

so a client that never answers is not "never tried, most stale" for ever. What it would say is
taken to be average until it answers: see `believed`.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...errors import require
from ...state import Entries
from ..checks import read_ids, require_savable
from ..vectors import flat
from .report import LARGEST, MOST_EXAMPLES, ClientReport

# NaN and 0 before anything is known.
_FLOATS = ("loss", "previous_loss", "squared_loss", "examples", "duration", "norm")
_COUNTS = ("invitations", "last_invited", "answers", "last_answered", "loss_round")
# What is 0 for a client until the other is not.
_TOGETHER = (("invitations", "last_invited"), ("answers", "last_answered"))
# What is counted in int32 stays below.
LAST_ROUND = 2**31 - 2


class Registry:
    """Rows of statistics, and the mapping of ids to rows.

    Args:
        name: the public name of the selector, for errors.
        sizes: examples of each client, for those known beforehand; a client's own report
            replaces it.
    """

    loss: torch.Tensor  # last known, of a probe or of training; NaN if unknown
    previous_loss: torch.Tensor  # the one known before, of an older round
    examples: torch.Tensor
    squared_loss: torch.Tensor  # this and the next two: of the newest reply
    duration: torch.Tensor
    norm: torch.Tensor
    invitations: torch.Tensor
    last_invited: torch.Tensor  # round; 0 if never
    answers: torch.Tensor
    last_answered: torch.Tensor  # round of the newest invitation answered; 0 if never
    loss_round: torch.Tensor  # round that `loss` belongs to; 0 if none

    def __init__(self, name: str, sizes: Mapping[Any, float] | None = None) -> None:
        self._name = name
        self.known_sizes = sizes
        self.row_of: dict[Any, int] = {}
        self._listed: list[Any] = []
        self._rows = torch.empty(0, dtype=torch.int64)
        self._place: torch.Tensor | None = None
        for column in _FLOATS:
            setattr(self, column, torch.empty(0, dtype=torch.float64))
        for column in _COUNTS:
            setattr(self, column, torch.empty(0, dtype=torch.int32))

    def rows(self, clients: Sequence[Any]) -> torch.Tensor:
        """Return the row of each client, registering newcomers; cached for the same clients.

        Args:
            clients: ids, in the caller's canonical order.

        Returns:
            [K] int64, not to be written to.

        Raises:
            ValueError: if an id stands there twice; nothing is registered then.
        """
        # Comparing lists of the same objects costs milliseconds where hashing costs tenths of
        # seconds, and unlike the identity of the list it notices one that was changed.
        ids = list(clients)
        if ids == self._listed:
            return self._rows
        if len(set(ids)) < len(ids):
            seen: set[Any] = set()
            twice = next(i for i in ids if i in seen or seen.add(i))
            require(
                False,
                f"{self._name}.select",
                "clients",
                twice,
                "stands more than once in clients",
                "list each client once",
            )
        self._register([i for i in ids if i not in self.row_of])
        row_of = self.row_of
        self._rows = torch.tensor([row_of[i] for i in ids], dtype=torch.int64)
        self._listed, self._place = ids, None
        return self._rows

    def rows_known(self, clients: Sequence[Any]) -> torch.Tensor:
        """Return the row of each client; -1 of those never registered."""
        if clients == self._listed:
            return self._rows
        row_of = self.row_of
        return torch.tensor([row_of.get(i, -1) for i in clients], dtype=torch.int64)

    def listed(self, positions: torch.Tensor) -> list[Any]:
        """Return the ids at these positions of the clients last given to `rows`."""
        return [self._listed[p] for p in positions.tolist()]

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """Return where these rows stand in the clients last given to `rows`; -1 if nowhere."""
        if self._place is None:
            self._place = torch.full((len(self.row_of),), -1)
            self._place[self._rows] = torch.arange(len(self._rows))
        return self._place[rows]

    def invite(self, rows: torch.Tensor, number: int) -> None:
        """Count an invitation to round `number`; once, if it is sent twice."""
        self.invitations[rows] += (self.last_invited[rows] != number).int()
        self.last_invited[rows] = self.last_invited[rows].clamp(min=number)

    def norms(self, reports: list[ClientReport]) -> list[float | None]:
        """Return the norm of each report's update.

        Raises:
            ValueError: if an update is not a flat vector of floats.
        """
        return [_norm(report, f"{self._name}.feedback") for report in reports]

    def answer(
        self,
        rows: list[int],
        reports: list[ClientReport],
        norms: list[float | None],
        number: int,
    ) -> None:
        """Take replies to invitations of round `number`, and what `norms` made of them.

        One that is older than another reply of its client counts, but says nothing new.
        """
        index = torch.tensor(rows, dtype=torch.int64)
        self.answers[index] += 1
        newest = self.last_answered[index] < number
        index = index[newest]
        keep = newest.tolist()
        reports = [r for r, new in zip(reports, keep, strict=True) if new]
        norms = [n for n, new in zip(norms, keep, strict=True) if new]
        self.last_answered[index] = number
        self.observe(index, reports, number)
        squares = [r.squared_loss for r in reports]
        self.squared_loss[index] = floats(squares, 0.0, LARGEST**2)
        self.duration[index] = floats([r.duration for r in reports], 0.0)
        self.norm[index] = floats(norms, 0.0)

    def observe(self, rows: torch.Tensor, reports: list[ClientReport], number: int) -> None:
        """Take the losses and sizes of round `number`, unless newer ones are known.

        A probe and a reply of one round are two measurements of one loss, and do not push it
        into `previous_loss`.
        """
        then = self.loss_round[rows]
        newer, current = number > then, number >= then
        self.previous_loss[rows[newer]] = self.loss[rows[newer]]
        rows = rows[current]
        if not bool(current.all()):
            keep = current.tolist()
            reports = [r for r, new in zip(reports, keep, strict=True) if new]
        self.loss[rows] = floats([r.loss for r in reports])
        self.examples[rows] = floats([r.num_examples for r in reports], 0.0)
        self.loss_round[rows] = number

    def believed(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return what to take for `values` where they are unknown, or no longer to be trusted.

        Args:
            values: [K] the statistic in question of the clients in `rows`, NaN where unknown.
            rows: [K].

        Returns:
            [K]: +inf for a client never invited and never heard of, so that it is tried; the
            mean of the known for one that left its last invitation unanswered or sent a loss
            that is not finite, so that it is neither sought nor shunned; else the value.
        """
        sure = ~self.unheard(rows) & values.isfinite()
        mean = values[sure].mean() if bool(sure.any()) else torch.tensor(0.0).double()
        never = (self.last_invited[rows] == 0) & (self.loss_round[rows] == 0)
        return torch.where(never, torch.inf, torch.where(sure, values, mean))

    def unheard(self, rows: torch.Tensor) -> torch.Tensor:
        """Return who left the last invitation unanswered, and was not heard of since."""
        invited = self.last_invited[rows]
        return (self.last_answered[rows] < invited) & (self.loss_round[rows] <= invited)

    def lowest_loss(self) -> float:
        """Return the lowest loss known of any client; inf if none is."""
        return float(self.loss.nan_to_num(math.inf).min()) if len(self.loss) else math.inf

    def data_sizes(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the examples of each client; of those unknown, the mean of the known, or 1."""
        examples = self.examples[rows]
        unknown = examples.isnan()
        mean = 1.0 if bool(unknown.all()) else float(examples.nanmean())
        return examples.masked_fill_(unknown, mean)

    def state_dict(self) -> dict[str, Any]:
        """Return ids in the order of their rows, and the tensors."""
        for client in self.row_of:
            require_savable(f"{self._name}.state_dict", client)
        count = len(self.row_of)
        columns = {c: getattr(self, c)[:count].clone() for c in (*_FLOATS, *_COUNTS)}
        return {"ids": list(self.row_of), **columns}

    def read(self, entries: Entries, last_round: int) -> "Registry":
        """Return the registry of a state of `state_dict`; this one stays as it is.

        Args:
            entries: the state.
            last_round: the selector's.

        Raises:
            ValueError: if it is damaged.
        """
        ids = read_ids(entries, "ids")
        made = Registry(self._name, self.known_sizes)
        made.row_of = {client: row for row, client in enumerate(ids)}
        for column in _FLOATS:
            setattr(made, column, _statistic(entries, column, len(ids)))
        for column in _COUNTS:
            counts = entries.tensor(column, (len(ids),), torch.int32)
            high = (
                last_round
                if column in ("last_invited", "last_answered", "loss_round")
                else None
            )
            if bool((counts < 0).any()) or (high is not None and bool((counts > high).any())):
                rule = "must hold counts of at least 0, and no round after the last"
                entries.refuse(column, counts, rule)
            setattr(made, column, counts.to("cpu", copy=True))
        for count, last in _TOGETHER:
            if bool(((getattr(made, count) > 0) != (getattr(made, last) > 0)).any()):
                entries.refuse(last, getattr(made, last), f"must be 0 where `{count}` is")
        return made

    def _register(self, newcomers: list[Any]) -> None:
        before, needed = len(self.row_of), len(self.row_of) + len(newcomers)
        capacity = len(self.loss)
        if needed > capacity:
            # A quarter to spare, so that newcomers one by one do not copy everything each time.
            more = max(needed, capacity + capacity // 4) - capacity
            for column in _FLOATS:
                new = torch.full((more,), torch.nan, dtype=torch.float64)
                setattr(self, column, torch.cat([getattr(self, column), new]))
            for column in _COUNTS:
                new = torch.zeros(more, dtype=torch.int32)
                setattr(self, column, torch.cat([getattr(self, column), new]))
        self.row_of.update(zip(newcomers, range(before, needed), strict=True))
        if self.known_sizes is not None:
            sizes = [self.known_sizes.get(i) for i in newcomers]
            self.examples[before:needed] = floats(sizes, 0.0)


def floats(values: list[Any], low: float = -LARGEST, high: float = LARGEST) -> torch.Tensor:
    """Return numbers as float64, NaN where they are None or outside [low, high].

    Args:
        values: numbers or None.
        low: the smallest that is believed.
        high: the largest.
    """
    # Through an array: several times faster than a tensor of a list, for a million of them.
    if None in values:
        values = [math.nan if n is None else n for n in values]
    plain = array("d", values)
    if not plain:
        return torch.empty(0, dtype=torch.float64)
    return _believable(torch.frombuffer(plain, dtype=torch.float64), low, high)


def _believable(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return values.masked_fill_(~((values >= low) & (values <= high)), math.nan)


def _statistic(entries: Entries, column: str, length: int) -> torch.Tensor:
    """Return a column of a state: NaN where unknown."""
    values = entries.tensor(column, (length,), torch.float64, finite=False)
    if bool(values.isinf().any()):
        entries.refuse(column, values, "must be finite, or NaN where unknown")
    signed = column in ("loss", "previous_loss")
    if not signed and bool((values < 0).any()):
        entries.refuse(column, values, "must be at least 0, or NaN where unknown")
    if column == "examples" and bool(((values <= 0) | (values > MOST_EXAMPLES)).any()):
        entries.refuse(column, values, "must be above 0 and at most 2^53")
    high = LARGEST**2 if column == "squared_loss" else LARGEST
    return _believable(values.to("cpu", copy=True), -high, high)


def _norm(report: ClientReport, call: str) -> float | None:
    if report.update is None:
        return report.update_norm
    update = flat(report.update, call, "update")
    return float(torch.linalg.vector_norm(update, dtype=torch.float64))
