"""A vector for each client that sent one, and how unlike the others that makes the client.

    labels    D_k = JS(p_k, p_bar) / ln 2                p_k: label histogram, p_bar: their mean
    updates   D_k = clip(1 - cos(d_k, g_bar), 0, 1)      d_k: last update, g_bar: running mean

Vectors stand in one matrix on the CPU: (clients ever heard of) x (length) x 4 bytes. For large
models let clients report a random projection of a few hundred numbers: the angles between
those are nearly the same.

Source of the second: HeteRo-Select (arXiv 2508.06692), second version's code. The first is
part of our reconstruction of the first version.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import require
from ...state import Entries
from ..vectors import flat, inner
from .report import MAX_EXAMPLES, ClientReport
from .terms import js_divergence

if TYPE_CHECKING:
    # Of the standard library from Python 3.11 on; torch brings this one.
    from typing_extensions import Self

# The share of the old running mean in the new one.
_KEEP = 0.9


class VectorMemory(ABC):
    """The last vector of each client that sent one; `name` is the selector's, for errors."""

    argument: str  # the entry of `ClientReport`

    def __init__(self, name: str) -> None:
        self._call = f"{name}.feedback"
        self._slot = torch.empty(0, dtype=torch.int64)  # by row; -1 if it has none
        self._vectors = torch.empty(0, 0)
        self._used = 0

    @property
    def vectors(self) -> Tensor:
        """[n, length] all vectors, in the order in which their clients first sent one."""
        return self._vectors[: self._used]

    def learn(
        self,
        rows: list[int],
        reports: list[ClientReport],
        weights: Mapping[int, float] | None = None,
    ) -> None:
        """Keep a round's vectors; `weights` are those of rows in a mean, None for equal ones.

        A vector that is damaged, or not as long as those before, is a `ValueError`; nothing is
        changed then.
        """
        pairs = zip(rows, reports, strict=True)
        given = {row: vector for row, r in pairs if (vector := self._vector_of(r)) is not None}
        if not given:
            return
        length = self._vectors.shape[1] or len(next(iter(given.values())))
        for vector in given.values():
            rule = f"must be as long as before, {length}"
            remedy = "let every client send the same numbers in the same order"
            fits = len(vector) == length
            require(fits, self._call, self.argument, len(vector), rule, remedy)
        matrix = torch.stack(list(given.values()))
        self._put(torch.tensor(list(given)), matrix)
        self._average(list(given), matrix, weights)

    def _put(self, rows: Tensor, vectors: Tensor) -> None:
        missing = int(rows.max()) + 1 - len(self._slot)
        if missing > 0:
            self._slot = torch.cat([self._slot, torch.full((missing,), -1)])
        new = rows[self._slot[rows] < 0]
        needed = self._used + len(new)
        if needed > len(self._vectors):
            larger = torch.empty(max(needed, 2 * self._used), vectors.shape[1])
            if self._used:
                larger[: self._used] = self.vectors
            self._vectors = larger
        self._slot[new] = torch.arange(self._used, needed)
        self._used = needed
        self._vectors[self._slot[rows]] = vectors

    def slots(self, rows: Tensor) -> Tensor:
        """Return the index in `vectors` of each row's vector; -1 if it has none."""
        within = rows < len(self._slot)
        result = torch.full_like(rows, -1)
        result[within] = self._slot[rows[within]]
        return result

    def rows_of(self, rows: Tensor) -> Tensor:
        """Return each row's vector, [K, length]; zeros where it has none."""
        slots = self.slots(rows)
        result = torch.zeros(len(rows), max(1, self._vectors.shape[1]))
        known = slots >= 0
        if self._used:
            result[known] = self.vectors[slots[known]]
        return result

    def diversity(self, rows: Tensor) -> Tensor:
        """Return D of each client as [K] float64, NaN where unknown, for rows [K]."""
        result = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        slots = self.slots(rows)
        known = slots >= 0
        if bool(known.any()):
            result[known] = self._diversity(slots[known])
        return result

    @abstractmethod
    def _vector_of(self, report: ClientReport) -> Tensor | None:
        """Return a report's vector as float32 on the CPU; None to pass it over."""

    @abstractmethod
    def _diversity(self, slots: Tensor) -> Tensor: ...

    def _average(
        self, rows: list[int], matrix: Tensor, weights: Mapping[int, float] | None
    ) -> None:
        """Update a mean by vectors that were kept; most memories have none."""
        del rows, matrix, weights

    def state_dict(self) -> dict[str, Any]:
        """Return the matrix and the index of each row's vector."""
        return {"slot": self._slot.clone(), "vectors": self.vectors.clone()}

    def read(self, entries: Entries, rows: int) -> "Self":
        """Return the memory of a state of `state_dict`, of `rows` clients; this one stays."""
        length = self._vectors.shape[1] if self._used else None
        vectors = entries.tensor("vectors", (None, None), torch.float32)
        slot = entries.tensor("slot", (None,), torch.int64)
        if len(slot) > rows:
            entries.refuse("slot", slot, f"must have at most {rows} entries, one for a client")
        used = slot[slot >= 0].sort().values
        if not torch.equal(used.cpu(), torch.arange(len(vectors))) or bool((slot < -1).any()):
            entries.refuse("slot", slot, "must name each vector once, and -1 elsewhere")
        if len(vectors) and vectors.shape[1] == 0:
            entries.refuse("vectors", vectors, "must have entries")
        if len(vectors) and length is not None and vectors.shape[1] != length:
            entries.refuse("vectors", vectors, f"must be as long as those here, {length}")
        made = copy.copy(self)
        made._slot = slot.to("cpu", copy=True)
        made._vectors = vectors.to("cpu", copy=True) if len(vectors) else torch.empty(0, 0)
        made._used = len(vectors)
        return made


class UpdateMemory(VectorMemory):
    """Last updates, and g_bar <- 0.9 g_bar + 0.1 (weighted mean of a round's updates)."""

    argument = "update"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.mean: Tensor | None = None

    def _vector_of(self, report: ClientReport) -> Tensor | None:
        if report.update is None:
            return None
        update = flat(report.update, self._call, self.argument).to("cpu", torch.float32)
        return update if bool(update.isfinite().all()) else None

    def _average(
        self, rows: list[int], matrix: Tensor, weights: Mapping[int, float] | None
    ) -> None:
        shares = [1.0 if weights is None else weights.get(row, 0.0) for row in rows]
        if sum(shares) > 0:
            new = torch.tensor(shares) / sum(shares) @ matrix
            self.mean = new if self.mean is None else _KEEP * self.mean + (1 - _KEEP) * new

    def _diversity(self, slots: Tensor) -> Tensor:
        """1 - the cosine to the mean; NaN where either is unknown or zero."""
        if self.mean is None:
            return torch.full((len(slots),), torch.nan, dtype=torch.float64)
        found, mean = [], self.mean
        # As many rows at once as make up a block.
        for vectors in self.vectors.split(max(1, (1 << 20) // len(mean))):
            norms = inner(vectors, vectors).sqrt() * inner(mean, mean).sqrt()
            found.append((1 - inner(vectors, mean) / norms).clamp(0, 1))
        return torch.cat(found)[slots]

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors' state and the mean."""
        return {**super().state_dict(), "mean": self.mean}

    def read(self, entries: Entries, rows: int) -> "Self":
        """Return the memory of a state; see `VectorMemory.read`."""
        made = super().read(entries, rows)
        length = made.vectors.shape[1]
        mean = entries.optional("mean", entries.tensor, shape=(length,), dtype=torch.float32)
        if mean is not None and not length:
            entries.refuse("mean", mean, "must be None where there are no updates")
        made.mean = None if mean is None else mean.to("cpu", copy=True)
        return made


class LabelMemory(VectorMemory):
    """The label histogram of each client that sent one."""

    argument = "label_counts"

    def _vector_of(self, report: ClientReport) -> Tensor | None:
        if report.label_counts is None:
            return None
        try:
            counts = torch.as_tensor(report.label_counts, dtype=torch.float32).flatten().cpu()
        except (TypeError, ValueError, RuntimeError, OverflowError):
            counts = torch.empty(0)
        rule = "must be counts of at least 0, not all 0 and none above 2^53"
        remedy = "give the examples of each class, or None"
        require(
            _are_counts(counts), self._call, self.argument, report.label_counts, rule, remedy
        )
        return counts

    def _diversity(self, slots: Tensor) -> Tensor:
        histograms = self.vectors[slots].double()
        mean = (histograms / histograms.sum(1, keepdim=True)).mean(0)
        return js_divergence(histograms, mean).clamp(0, 1)

    def read(self, entries: Entries, rows: int) -> "Self":
        """Return the memory of a state; see `VectorMemory.read`."""
        made = super().read(entries, rows)
        if not all(_are_counts(counts) for counts in made.vectors):
            entries.refuse("vectors", made.vectors, "must be counts, not all 0 for a client")
        return made


def _are_counts(counts: Tensor) -> bool:
    within = (counts >= 0) & (counts <= MAX_EXAMPLES)
    return bool(within.all()) and bool((counts > 0).any())
