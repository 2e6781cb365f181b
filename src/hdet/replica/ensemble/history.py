"""What an ensemble remembers: how many syncs, who was masked, and what the last one found.

Between two syncs a process has sums of losses of its own. A checkpoint has them with the
coordinates of the process (its replica, and its index in each inner group), and another process
that loads it drops them. Inside `converged()` it has those of all processes.
"""

from typing import Any

from ...state import MOST, Entries
from .gathered import Gathered
from .groups import Replicas


class History:
    """The syncs of an ensemble so far; the same on every rank but for the milliseconds.

    Args:
        replicas: who they are.

    Attributes:
        syncs: how many.
        ever_given: whether any replica was given a loss before any of them.
        masked_total: how often each replica was masked.
        taken_from: the replica whose own state was loaded here, if it is another one.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self.syncs, self.ever_given = 0, False
        self.masked_total = [0] * replicas.size
        self.taken_from: int | None = None
        self._last: dict[str, Any] = {}

    def add(
        self,
        gathered: Gathered,
        divergence: list[float],
        milliseconds: float,
        ends_interval: bool = True,
    ) -> None:
        """Count a sync; the losses stay those of the last whole interval."""
        losses = gathered.losses
        if not ends_interval:
            losses = self._last.get("losses", losses)
        self.syncs += 1
        self.ever_given |= gathered.given
        for r in gathered.masked:
            self.masked_total[r] += 1
        self._last = {
            "losses": losses,
            "masked": gathered.masked,
            "divergence": divergence,
            "sync_ms": milliseconds,
        }

    def metrics(self) -> dict[str, Any]:
        """Return the counts, and what the last sync found. Local."""
        counts = {"syncs": self.syncs, "masked_total": list(self.masked_total)}
        return {**counts, **self._last}

    def state_dict(self, sums: list, shared: bool) -> dict[str, Any]:
        """Return plain numbers; `sums` are of this process, or, if `shared`, of all of them."""
        return {
            "syncs": self.syncs,
            "ever_given": self.ever_given,
            "masked_total": list(self.masked_total),
            "interval": {
                "shape": list(self._replicas.shape),
                "coordinates": [] if shared else list(self._replicas.coordinate),
                "sums": sums,
            },
        }

    def parsed(self, entries: Entries) -> "tuple[History, list | None]":
        """Return the history of a state, and its [sum, count] if they are this process's."""
        interval = entries.entries("interval")
        shape = interval.integers("shape", low=1)
        key = "coordinates" if interval.has("coordinates") else "place"  # the older name
        whose = interval.integers(key)
        if whose and not (len(whose) == len(shape) and all(map(int.__lt__, whose, shape))):
            interval.refuse(key, whose, f"must lie within {shape}")
        sums = _nested(interval, "sums", [] if whose else shape)
        here = list(self._replicas.coordinate)
        if shape != list(self._replicas.shape) or whose not in ([], here):
            sums = None  # Another rank's losses, or another world's, are dropped.
        elif not whose:
            for index in here:
                sums = sums[index]
        masked = entries.integers("masked_total")
        fresh = History(self._replicas)
        fresh.syncs = entries.integer("syncs")
        fresh.ever_given = entries.boolean("ever_given")
        if shape[0] > 1 and sums is None and whose:
            fresh.taken_from = whose[0]
        if len(masked) == self._replicas.size:
            fresh.masked_total = masked
        return fresh, sums


def _nested(entries: Entries, key: str, shape: list[int]) -> Any:
    """Return [sum, count], or such pairs in lists of a shape, once they have been checked."""
    if shape:
        rows = entries.listed(key, shape[0])
        return [_nested(rows, row, shape[1:]) for row in map(str, range(shape[0]))]
    pair = entries.listed(key, 2)
    total = pair.raw("0")
    # NaN is a good sum: the interval had such a loss.
    total = total if isinstance(total, float) else pair.number("0")
    return [total, int(pair.number("1", 0, MOST))]
