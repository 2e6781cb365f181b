"""What `Exploration.decide` makes of a sync, in plain numbers."""

from dataclasses import dataclass

from .attribution import Slopes


@dataclass(frozen=True)
class Decision:
    """What becomes of a sync.

    Attributes:
        excluded: the replicas that have diverged; the average leaves them out.
        rollback: whether all replicas go back to the averaged weights.
        offsets: who has played what: of each dimension and replica, between -1 and 1.
        slopes: one for each dimension.
        confidence: for each dimension, how sure it is that a larger value is better, -1 to 1.
        new_level: whether a new level of the loss was accepted.
        note: what has happened, for a log; nothing where all is well.
    """

    excluded: list[int]
    rollback: bool
    offsets: list[list[float]]
    slopes: Slopes
    confidence: list[float]
    new_level: bool
    note: str
