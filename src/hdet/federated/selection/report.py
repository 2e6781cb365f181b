"""A client's statistics: the only thing that a selector ever knows of it.

A loss, a duration or a norm that is not finite, or beyond 1e30, comes from a client that
diverged. It counts as unknown and is not refused: one broken client must neither end the round
nor, through a minimum or a mean, spoil the scores of the others. Anything but a number is
refused.

Losses may be below 0, as those of densities and rewards are. Most selectors only compare them;
where a loss is multiplied by examples, as in Oort's utility, its zero counts: see
`Selector.loss_floor`.
"""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import require

# Statistics beyond this count as unknown; sums of its squares are far below float64's largest.
LARGEST = 1e30
# Beyond this float64 skips whole numbers.
MAX_EXAMPLES = 2**53


@dataclass(frozen=True, slots=True, eq=False)
class ClientReport:
    """One client's numbers for one round, from a probe or from local training.

    Args:
        loss: mean loss of the client's data under this round's global model, of any sign.
            NaN, infinity and sizes beyond 1e30 mean unknown.
        num_examples: n_k > 0, the training examples that the client holds; in a probe too,
            even if its loss is that of a few. At most 2^53.
        duration: seconds from invitation to reply; None, not finite or below 0 if unknown.
        update: new weights minus global weights, trainable entries only, as one flat vector
            of the same length from every client; as it was sent, if it was compressed. None
            if the selector does not use it.
        update_norm: Euclidean norm of the update; taken from `update` if that is given.
        label_counts: examples of each class, as many numbers from every client. A histogram
            of labels tells the server something private: None keeps it on the client.
        squared_loss: mean of the squared losses of single examples, by which Oort's utility is
            defined; if None, Oort takes `loss` squared.

    Raises:
        ValueError: if `num_examples` is not a finite number above 0, or another statistic is
            not a number.
    """

    loss: float
    num_examples: float
    duration: float | None = None
    update: Any = None
    update_norm: float | None = None
    label_counts: Sequence[float] | torch.Tensor | None = None
    squared_loss: float | None = None

    def __post_init__(self) -> None:
        name, remedy = "ClientReport", "give a float, or None or NaN if it is unknown"
        for statistic in ("loss", "num_examples", "duration", "update_norm", "squared_loss"):
            value = getattr(self, statistic)
            # Most are floats, and there may be a million reports.
            if type(value) is not float and not _is_number_or_none(value):
                require(False, name, statistic, value, "must be a number", remedy)
        if not is_examples(self.num_examples):
            rule = "must be a finite number above 0, at most 2^53"
            remedy = "leave a client without examples out of the round"
            require(False, name, "num_examples", self.num_examples, rule, remedy)


def is_examples(value: Any) -> bool:
    """Return whether a client can hold so many examples: above 0, at most 2^53."""
    return value is not None and _is_number_or_none(value) and 0 < float(value) <= MAX_EXAMPLES


def _is_number_or_none(value: Any) -> bool:
    """Return whether `value` is None, a number, or a scalar tensor or array of one."""
    if value is None or type(value) is float:
        return True
    if not isinstance(value, numbers.Real) and getattr(value, "ndim", 1) != 0:
        return False
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return True
