"""What a client tells the server: the only thing that a selector ever knows of it.

A loss, a duration or a norm that is not finite, or beyond 1e30, comes from a client that
diverged. It is taken as unknown, not refused: one broken client must neither end the round nor,
through a minimum or a mean, spoil the scores of the others. What is no number is refused.

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

# What a number of a client that is well does not exceed; sums of its squares are still far
# from the end of float64.
LARGEST = 1e30
# What a count does not: beyond it float64 skips whole numbers.
MOST_EXAMPLES = 2**53


@dataclass(frozen=True, slots=True, eq=False)
class ClientReport:
    """One client's numbers for one round, of a probe or of local training.

    Args:
        loss: mean loss of the client's data under this round's global model, of any sign.
            NaN, infinity and sizes beyond 1e30 mean unknown.
        num_examples: n_k > 0, the training examples that the client holds; in a probe too,
            whatever it measured its loss on. At most 2^53.
        duration: seconds from invitation to reply; None, not finite or below 0 if unknown.
        update: new weights minus global weights, trainable entries only, as one flat vector
            of the same length from every client; what was sent, if that was compressed. None
            if the selector does not ask for it.
        update_norm: Euclidean norm of the update; taken from `update` if that is given.
        label_counts: examples of each class, as many numbers from every client. A histogram
            of labels tells the server something private: None keeps it at home.
        squared_loss: mean of the squared losses of single examples, which Oort's utility is
            defined by; if None, Oort takes `loss` squared.

    Raises:
        ValueError: if `num_examples` is not a finite number above 0, or another statistic is
            no number at all.
    """

    loss: float
    num_examples: float
    duration: float | None = None
    update: Any = None
    update_norm: float | None = None
    label_counts: Sequence[float] | torch.Tensor | None = None
    squared_loss: float | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "num_examples", "duration", "update_norm", "squared_loss"):
            value = getattr(self, name)
            # Most are floats, and there may be a million reports.
            if type(value) is not float and not _is_number(value):
                remedy = "give a float, or None or NaN if it is unknown"
                require(False, "ClientReport", name, value, "must be a number", remedy)
        if not is_examples(self.num_examples):
            require(
                False,
                "ClientReport",
                "num_examples",
                self.num_examples,
                "must be a finite number above 0, at most 2^53",
                "leave a client that holds no examples out of the round",
            )


def is_examples(value: Any) -> bool:
    """Return whether a client can hold so many examples: above 0, at most 2^53."""
    return value is not None and _is_number(value) and 0 < float(value) <= MOST_EXAMPLES


def _is_number(value: Any) -> bool:
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
