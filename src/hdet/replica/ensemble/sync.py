"""What a sync found, and what a checkpoint keeps of the ensemble between two of them."""

from dataclasses import dataclass
from typing import Any

from ...state import MOST, Entries
from .groups import Replicas


@dataclass(frozen=True)
class Sync:
    """What a sync found; the same on every rank but for `milliseconds`.

    Attributes:
        losses: L_r of every replica, the mean over the interval; NaN where it gave none, or
            where its weights were not finite.
        given: whether any replica was given a loss in the interval.
        masked: the replicas whose loss or weights were not finite. Weights are healed.
        divergence: ||theta_r - mean|| / ||mean|| of every replica before it was averaged.
        milliseconds: this process's time for the whole sync.
        probes: the probe's loss on every replica; NaN without a probe.
        fallen: the replicas that `judge` left out of the average; healed too.
        broken: the replicas whose weights were not finite, or whose optimizer state overflows.
        rescued: whether no replica was finite and `rescue` was called.
    """

    losses: list[float]
    given: bool
    masked: list[int]
    divergence: list[float]
    milliseconds: float
    probes: list[float]
    fallen: list[int]
    broken: list[int]
    rescued: bool


def parsed_ensemble(entries: Entries, replicas: Replicas) -> dict[str, Any]:
    """Return what `Ensemble.assign` takes, from what `Ensemble.state_dict` returned.

    Raises:
        ValueError: if it is damaged.
    """
    interval = entries.entries("interval")
    shape = interval.integers("shape", low=1)
    place = interval.integers("place")
    if place and (len(place) != len(shape) or not all(map(int.__lt__, place, shape))):
        interval.refuse("place", place, f"must lie within {shape}")
    sums = _nested(interval, "sums", [] if place else shape)
    mine, here = list(replicas.shape), list(replicas.coordinate)
    if shape != mine or place not in ([], here):
        sums = None  # Another rank's losses, or another world's, are dropped.
    elif not place:
        for index in here:
            sums = sums[index]
    masked = entries.integers("masked_total")
    return {
        "syncs": entries.integer("syncs"),
        "ever_given": entries.boolean("ever_given"),
        "masked": masked if len(masked) == mine[0] else [0] * mine[0],
        "sums": sums,
    }


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
