"""What a client tells the server: the only thing that a selector ever knows of it.

A loss, a duration or a norm that is not finite comes from a client that diverged. It is taken
as unknown, not refused: one broken client must neither end the round nor, through a minimum
or a mean, spoil the scores of the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import require


@dataclass(frozen=True, slots=True, eq=False)
class ClientReport:
    """One client's numbers for one round, of a probe or of local training.

    Args:
        loss: mean loss of the client's data under this round's global model. NaN and
            infinity mean unknown.
        num_examples: n_k > 0, the training examples that the client holds; in a probe too,
            whatever it measured its loss on.
        duration: seconds from invitation to reply; None or not finite if unknown.
        update: new weights minus global weights, trainable entries only, as one flat vector
            of the same length from every client; what was sent, if that was compressed. None
            if the selector does not ask for it.
        update_norm: Euclidean norm of the update; taken from `update` if that is given.
        label_counts: examples of each class, as many numbers from every client. A histogram
            of labels tells the server something private: None keeps it at home.
        squared_loss: mean of the squared losses of single examples, which Oort's utility is
            defined by; if None, Oort takes `loss` squared.

    Raises:
        ValueError: if `num_examples` is not a finite number above 0.
    """

    loss: float
    num_examples: float
    duration: float | None = None
    update: Any = None
    update_norm: float | None = None
    label_counts: Sequence[float] | torch.Tensor | None = None
    squared_loss: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.num_examples < math.inf:
            require(
                False,
                "ClientReport",
                "num_examples",
                self.num_examples,
                "must be a finite number above 0",
                "leave a client that holds no examples out of the round",
            )
