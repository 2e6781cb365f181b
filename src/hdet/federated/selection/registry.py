"""What the server remembers of each client: one row of numbers, found by the client's id.

Rows are given out in the order in which ids first appear, and never taken back, so a client
that vanishes and returns finds its past. There is one tensor per statistic, so that a million
clients are scored by a few tensor operations.

An invitation counts when it is sent, and a reply when it comes:

    invitations, last_invited   whom the server asked: fairness and staleness go by these
    answers, last_answered      whose reply came

so a client that never answers does not stay "never tried, most stale". Until it answers, its
statistics are imputed by the mean: see `imputed`. A reply counts only if it answers an open
invitation: a report that comes twice, or from a client that was not asked, changes nothing.
"""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import require
from ...state import Entries
from ..vectors import flat, inner
from .report import LARGEST, MAX_EXAMPLES, ClientReport

# NaN and 0 before anything is known.
_FLOATS = ("loss", "previous_loss", "squared_loss", "examples", "duration", "norm")
_COUNTS = ("invitations", "last_invited", "answers", "last_answered", "loss_round")
_ROUNDS = ("last_invited", "last_answered", "loss_round")
# Rounds and counts are int32.
LAST_ROUND = 2**31 - 2
# A model this many rounds old says nothing about today's. Without a limit, invitations that are
# never answered would pile up.
_OPEN_ROUNDS = 100


class Registry:
    """Rows of statistics, the mapping of ids to rows, and the open invitations.

    `name` is the selector's, for errors. A client's own report replaces its entry in `sizes`.
    """

    loss: Tensor  # last known, of a probe or of training; NaN if unknown
    previous_loss: Tensor  # the one known before, of an older round
    examples: Tensor
    squared_loss: Tensor  # this and the next two: of the newest reply
    duration: Tensor
    norm: Tensor
    invitations: Tensor
    last_invited: Tensor  # round; 0 if never
    answers: Tensor
    last_answered: Tensor  # round of the newest invitation answered; 0 if never
    loss_round: Tensor  # round that `loss` belongs to; 0 if none

    def __init__(self, name: str, sizes: Mapping[Any, float] | None = None) -> None:
        self._name = name
        self._sizes = sizes or {}
        self.row_of: dict[Any, int] = {}
        self.listed: list[Any] = []  # the clients last given to `rows`
        self.listed_rows = torch.empty(0, dtype=torch.int64)
        self._position: Tensor | None = None
        # By round, the rows invited to it that have not answered.
        self._open: dict[int, set[int]] = {}
        for column in _FLOATS:
            setattr(self, column, torch.empty(0, dtype=torch.float64))
        for column in _COUNTS:
            setattr(self, column, torch.empty(0, dtype=torch.int32))

    # Which row, which id.

    def rows(self, clients: Sequence[Any]) -> Tensor:
        """Return the row of each client, registering newcomers; cached for the same clients.

        A client that is listed twice is a `ValueError`; nothing is registered then.
        """
        # Comparing lists of the same objects costs milliseconds where hashing costs tenths of
        # seconds, and unlike the identity of the list it notices changes to it.
        ids = list(clients)
        if ids == self.listed:
            return self.listed_rows
        if len(set(ids)) < len(ids):
            seen: set[Any] = set()
            twice = next(i for i in ids if i in seen or seen.add(i))
            rule, remedy = "is in clients more than once", "list each client once"
            require(False, f"{self._name}.select", "clients", twice, rule, remedy)
        self._register([i for i in ids if i not in self.row_of])
        row_of = self.row_of
        self.listed_rows = torch.tensor([row_of[i] for i in ids], dtype=torch.int64)
        self.listed, self._position = ids, None
        return self.listed_rows

    def ids_at(self, positions: Tensor) -> list[Any]:
        """Return the ids at these positions of the clients last given to `rows`."""
        return [self.listed[p] for p in positions.tolist()]

    def mask_of(self, rows: Tensor) -> Tensor:
        """Return the mask, over the clients last given to `rows`, of those in these rows."""
        if self._position is None:
            self._position = torch.full((len(self.row_of),), -1)
            self._position[self.listed_rows] = torch.arange(len(self.listed_rows))
        mask = torch.zeros(len(self.listed_rows), dtype=torch.bool)
        positions = self._position[rows]
        mask[positions[positions >= 0]] = True
        return mask

    # Invitations and replies.

    def invite(self, rows: Tensor, number: int) -> None:
        """Count invitations to round `number`, each once, and drop those of long ago."""
        replied = self.last_answered[rows] == number
        self.invitations[rows] += (self.last_invited[rows] != number).int()
        self.last_invited[rows] = self.last_invited[rows].clamp(min=number)
        self._open.setdefault(number, set()).update(rows[~replied].tolist())
        oldest = max(self._open) - _OPEN_ROUNDS
        self._open = {r: rows for r, rows in self._open.items() if rows and r > oldest}

    def invited(
        self, number: int, reports: Mapping[Any, ClientReport]
    ) -> list[tuple[int, ClientReport]]:
        """Return the reports that answer an open invitation to round `number`, by row.

        In the order of rows: sums must not depend on which reply came first.
        """
        rows, waiting = self.row_of, self._open.get(number, set())
        taken = [(rows[i], r) for i, r in reports.items() if rows.get(i) in waiting]
        return sorted(taken, key=lambda pair: pair[0])

    def norms(self, reports: list[ClientReport]) -> list[float | None]:
        """Return the norm of each report's update; a `ValueError` if it is not of floats."""
        return [_norm(report, f"{self._name}.feedback") for report in reports]

    def answer(
        self, pairs: list[tuple[int, ClientReport]], norms: list[float | None], number: int
    ) -> None:
        """Record rows' replies to round `number` of `invited`, with their `norms`.

        A reply older than another of its client counts, but its numbers are not taken.
        """
        self._open.get(number, set()).difference_update(row for row, _ in pairs)
        index = torch.tensor([row for row, _ in pairs], dtype=torch.int64)
        self.answers[index] += 1
        newest = self.last_answered[index] < number
        keep = newest.tolist()
        reports = [r for (_, r), new in zip(pairs, keep, strict=True) if new]
        index = index[newest]
        self.last_answered[index] = number
        self.observe(index, reports, number)
        self.squared_loss[index] = floats([r.squared_loss for r in reports], 0, LARGEST**2)
        self.duration[index] = floats([r.duration for r in reports], 0)
        self.norm[index] = floats([n for n, new in zip(norms, keep, strict=True) if new], 0)

    def observe(self, rows: Tensor, reports: list[ClientReport], number: int) -> None:
        """Record the losses and sizes of round `number`, unless newer ones are known.

        A probe and a reply of one round are two measurements of one loss: the first does not
        become `previous_loss`.
        """
        then = self.loss_round[rows]
        newer, current = number > then, number >= then
        self.previous_loss[rows[newer]] = self.loss[rows[newer]]
        rows = rows[current]
        if not bool(current.all()):
            keep = current.tolist()
            reports = [r for r, new in zip(reports, keep, strict=True) if new]
        self.loss[rows] = floats([r.loss for r in reports])
        self.examples[rows] = floats([r.num_examples for r in reports], 0)
        self.loss_round[rows] = number

    # What the methods score by.

    def imputed(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return a statistic with a value for the clients whose own is unknown or outdated.

        That is +inf for a client never invited and never heard of, so that it is tried; and the
        mean of the known for one that left its last invitation unanswered or sent a loss that
        is not finite, so that it is neither preferred nor avoided.
        """
        known = ~self.unanswered(rows) & values.isfinite()
        mean = values[known].mean() if bool(known.any()) else torch.tensor(0.0).double()
        never = (self.last_invited[rows] == 0) & (self.loss_round[rows] == 0)
        return torch.where(never, torch.inf, torch.where(known, values, mean))

    def unanswered(self, rows: Tensor) -> Tensor:
        """Return the mask of clients not heard of since their last invitation."""
        invited = self.last_invited[rows]
        return (self.last_answered[rows] < invited) & (self.loss_round[rows] <= invited)

    def lowest_loss(self) -> float:
        """Return the lowest loss known of any client; inf if none is."""
        return float(self.loss.nan_to_num(math.inf).min()) if len(self.loss) else math.inf

    def data_sizes(self, rows: Tensor) -> Tensor:
        """Return the examples of each client; if unknown, the mean of the known, or 1."""
        examples = self.examples[rows]
        unknown = examples.isnan()
        mean = 1.0 if bool(unknown.all()) else float(examples.nanmean())
        return examples.masked_fill_(unknown, mean)

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return ids in the order of their rows, and the tensors."""
        require_savable(f"{self._name}.state_dict", self.row_of)
        count = len(self.row_of)
        columns = {c: getattr(self, c)[:count].clone() for c in (*_FLOATS, *_COUNTS)}
        return {"ids": list(self.row_of), **columns}

    def open_state(self) -> Tensor:
        """Return the open invitations, [n, 2] pairs of round and row."""
        pairs = [(number, row) for number, rows in self._open.items() for row in sorted(rows)]
        return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)

    def read(self, entries: Entries, last_round: int) -> "Registry":
        """Return the registry of a selector's state; this one stays as it is."""
        inside = entries.entries("registry")
        ids = read_ids(inside, "ids")
        made = Registry(self._name, self._sizes)
        made.row_of = {client: row for row, client in enumerate(ids)}
        for column in _FLOATS:
            setattr(made, column, _statistic(inside, column, len(ids)))
        for column in _COUNTS:
            counts = inside.tensor(column, (len(ids),), torch.int32)
            high = last_round if column in _ROUNDS else LAST_ROUND
            if bool(((counts < 0) | (counts > high)).any()):
                rule = "must hold counts of at least 0, and no round after the last"
                inside.refuse(column, counts, rule)
            setattr(made, column, counts.to("cpu", copy=True))
        for count, last in (("invitations", "last_invited"), ("answers", "last_answered")):
            if bool(((getattr(made, count) > 0) != (getattr(made, last) > 0)).any()):
                inside.refuse(last, getattr(made, last), f"must be 0 where `{count}` is")
        pairs = read_pairs(entries, "open", (1, last_round), (0, len(ids) - 1))
        for number, row in pairs.tolist():
            made._open.setdefault(number, set()).add(row)
        return made

    def _register(self, newcomers: list[Any]) -> None:
        before, needed = len(self.row_of), len(self.row_of) + len(newcomers)
        capacity = len(self.loss)
        if needed > capacity:
            # A quarter to spare, so that newcomers one by one do not copy everything each time.
            more = max(needed, capacity + capacity // 4) - capacity
            for column in (*_FLOATS, *_COUNTS):
                old = getattr(self, column)
                new = old.new_full((more,), math.nan if column in _FLOATS else 0)
                setattr(self, column, torch.cat([old, new]))
        self.row_of.update(zip(newcomers, range(before, needed), strict=True))
        if self._sizes:
            sizes = [self._sizes.get(i) for i in newcomers]
            self.examples[before:needed] = floats(sizes, 0)


def floats(values: list[Any], low: float = -LARGEST, high: float = LARGEST) -> Tensor:
    """Return numbers as float64, NaN where they are None or outside [low, high]."""
    # Through an array: several times faster than a tensor of a list, for a million of them.
    if None in values:
        values = [math.nan if n is None else n for n in values]
    plain = array("d", values)
    if not plain:
        return torch.empty(0, dtype=torch.float64)
    return _within(torch.frombuffer(plain, dtype=torch.float64), low, high)


def read_ids(entries: Entries, key: str) -> list[int | str]:
    """Return an entry of a state that lists clients: ints and strings, each once."""
    ids = entries.items(key)
    if not all(isinstance(client, int | str) for client in ids):
        entries.refuse(key, ids, "must hold ints and strings alone")
    if len(set(ids)) < len(ids):
        entries.refuse(key, ids, "must hold each client once")
    return ids


def require_savable(call: str, clients: Iterable[Any]) -> None:
    """Raise a `ValueError` unless all ids are ints or strings."""
    for client in clients:
        rule, remedy = "must be an int or a string to be saved", "use ints or strings as ids"
        require(isinstance(client, int | str), call, "client", client, rule, remedy)


def read_pairs(
    entries: Entries, key: str, first: tuple[int, int], second: tuple[int, int]
) -> Tensor:
    """Return an entry of pairs of whole numbers, each column within its limits."""
    pairs = entries.tensor(key, (None, 2), torch.int64).cpu()
    for column, (low, high) in enumerate((first, second)):
        values = pairs[:, column]
        if bool(((values < low) | (values > high)).any()):
            entries.refuse(key, pairs, "names a row or a round that does not exist")
    return pairs


def _within(values: Tensor, low: float, high: float) -> Tensor:
    return values.masked_fill_(~((values >= low) & (values <= high)), math.nan)


def _statistic(entries: Entries, column: str, length: int) -> Tensor:
    """Return a column of a state: NaN where unknown."""
    values = entries.tensor(column, (length,), torch.float64, finite=False)
    if bool(values.isinf().any()):
        entries.refuse(column, values, "must be finite, or NaN where unknown")
    if column not in ("loss", "previous_loss") and bool((values < 0).any()):
        entries.refuse(column, values, "must be at least 0, or NaN where unknown")
    if column == "examples" and bool(((values <= 0) | (values > MAX_EXAMPLES)).any()):
        entries.refuse(column, values, "must be above 0 and at most 2^53")
    high = LARGEST**2 if column == "squared_loss" else LARGEST
    return _within(values.to("cpu", copy=True), -high, high)


def _norm(report: ClientReport, call: str) -> float | None:
    if report.update is None:
        return report.update_norm
    update = flat(report.update, call, "update")
    return math.sqrt(float(inner(update, update)))
