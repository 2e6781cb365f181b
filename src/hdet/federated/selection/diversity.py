"""How unlike the others a client is: by its labels, or by its last update.

    labels    D_k = JS(p_k, p_bar) / ln 2                p_k: label histogram, p_bar: their mean
    updates   D_k = clip(1 - cos(d_k, g_bar), 0, 1)      d_k: last update, g_bar: running mean

Updates are kept as they come, so for large models let clients report a random projection of
a few hundred numbers: the angles between those are nearly the same.

Source of the second: HeteRo-Select (arXiv 2508.06692), second version's code. The first is
part of our reconstruction of the first version.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch

from ...errors import require
from ...state import Entries
from ..vectors import flat, inner
from .memory import VectorMemory
from .report import MOST_EXAMPLES, ClientReport
from .terms import label_divergence

# Rows times columns that are turned to float64 at once.
_PIECE = 1 << 20
# The old share of the running mean.
_KEEP = 0.9


class UpdateMemory(VectorMemory):
    """Last updates, and g_bar <- 0.9 g_bar + 0.1 (weighted mean of a round's updates).

    Args:
        name: the public name of the selector, for errors.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "update")
        self.mean: torch.Tensor | None = None

    def learn(
        self,
        rows: list[int],
        reports: list[ClientReport],
        weights: Mapping[int, float] | None = None,
    ) -> None:
        """Keep a round's updates, and move the mean by them.

        Args:
            rows: the clients' rows.
            reports: theirs; one without an update, or with one not finite, is passed over.
            weights: of the rows that count in the mean; None counts all alike.

        Raises:
            ValueError: if an update is not as long as those before, or not of floats.
        """
        call = f"{self._name}.feedback"
        given: dict[int, torch.Tensor] = {}
        for row, report in zip(rows, reports, strict=True):
            if report.update is not None:
                given[row] = flat(report.update, call, "update").to("cpu", torch.float32)
        given = {row: update for row, update in given.items() if bool(update.isfinite().all())}
        matrix = self.checked(list(given.values()))
        if matrix is None:
            return
        self.put(list(given), matrix)
        shares = [1.0 if weights is None else weights.get(row, 0.0) for row in given]
        if sum(shares) <= 0:
            return
        new = torch.tensor(shares) / sum(shares) @ matrix
        self.mean = new if self.mean is None else _KEEP * self.mean + (1 - _KEEP) * new

    def diversity(self, rows: torch.Tensor) -> torch.Tensor:
        """Return D = clip(1 - cos(d_k, g_bar), 0, 1); NaN where either is unknown or zero.

        Args:
            rows: [K] the clients' rows.

        Returns:
            [K] float64.
        """
        result = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        if self.mean is None:
            return result
        slots = self.slots(rows)
        known = slots >= 0
        products, squares = self._products(self.mean)
        cosine = products / (squares.sqrt() * inner(self.mean, self.mean).sqrt())
        result[known] = (1 - cosine[slots[known]]).clamp(0, 1)
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors' state and the mean."""
        return {**super().state_dict(), "mean": self.mean}

    def read(self, entries: Entries, rows: int) -> Self:
        """Return the memory of a state of `state_dict`; see `VectorMemory.read`."""
        made = super().read(entries, rows)
        length = made.vectors.shape[1]
        mean = entries.optional("mean", entries.tensor, shape=(length,), dtype=torch.float32)
        if mean is not None and not length:
            entries.refuse("mean", mean, "must be None where there are no updates")
        made.mean = None if mean is None else mean.to("cpu", copy=True)
        return made

    def _products(self, with_vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inner product of each vector with a given one, and with itself."""
        height = max(1, _PIECE // len(with_vector))
        products = [inner(part, with_vector) for part in self.vectors.split(height)]
        squares = [inner(part, part) for part in self.vectors.split(height)]
        return torch.cat(products), torch.cat(squares)


class LabelMemory(VectorMemory):
    """The label histogram of each client that gave one.

    Args:
        name: the public name of the selector, for errors.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "label_counts")

    def learn(self, rows: list[int], reports: list[ClientReport]) -> None:
        """Keep the histograms of a round's reports.

        Args:
            rows: the clients' rows.
            reports: theirs; one without a histogram is passed over.

        Raises:
            ValueError: if a histogram is not as long as those before, or not one of counts.
        """
        given: dict[int, torch.Tensor] = {}
        for row, report in zip(rows, reports, strict=True):
            if report.label_counts is None:
                continue
            counts = _counts(report.label_counts)
            require(
                _are_counts(counts),
                f"{self._name}.feedback",
                "label_counts",
                report.label_counts,
                "must be counts of at least 0, not all 0 and none above 2^53",
                "give the examples of each class, or None",
            )
            given[row] = counts
        matrix = self.checked(list(given.values()))
        if matrix is not None:
            self.put(list(given), matrix)

    def read(self, entries: Entries, rows: int) -> Self:
        """Return the memory of a state of `state_dict`; see `VectorMemory.read`."""
        made = super().read(entries, rows)
        if not all(_are_counts(counts) for counts in made.vectors):
            entries.refuse("vectors", made.vectors, "must be counts, not all 0 for a client")
        return made

    def diversity(self, rows: torch.Tensor) -> torch.Tensor:
        """Return D = JS(p_k, p_bar) / ln 2, p_bar the mean over `rows`; NaN where unknown.

        Args:
            rows: [K] the clients' rows.

        Returns:
            [K] float64.
        """
        result = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        slots = self.slots(rows)
        known = slots >= 0
        if bool(known.any()):
            result[known] = label_divergence(self.vectors[slots[known]].double())
        return result


def _counts(given: Any) -> torch.Tensor:
    """Return a histogram as flat float32; empty if it is nothing of the kind."""
    try:
        return torch.as_tensor(given, dtype=torch.float32).flatten().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return torch.empty(0)


def _are_counts(counts: torch.Tensor) -> bool:
    within = (counts >= 0) & (counts <= MOST_EXAMPLES)
    return bool(within.all()) and bool((counts > 0).any())
