"""Which examples judge, and which train."""

import numpy as np
import torch
from torch import Tensor

from ...errors import require


def judges(call: str, numbers: np.ndarray, validation: float, order: np.ndarray) -> Tensor:
    """Return ones where an example judges, [folds, n]; as even over the classes as can be.

    Args:
        call: the public name that was called, for errors.
        numbers: of the classes, [n].
        validation: folds, from 2, or a part in (0, 1).
        order: a permutation of the examples.

    Raises:
        ValueError: if a fold would be empty, or all.
    """
    count = len(numbers)
    order = order[np.argsort(numbers[order], kind="stable")]
    if validation < 1:
        # Evenly along the classes: i judges where i * validation passes a whole number.
        rows = np.diff(np.floor(np.arange(count + 1) * validation))[None]
    else:
        rows = np.arange(count) % validation == np.arange(validation)[:, None]
    made = np.zeros(rows.shape)
    made[:, order] = rows
    enough = bool(made.any(1).all() and (made == 0).any(1).all())
    rule = f"must leave examples on either side, and there are {count}"
    require(enough, call, "validation", validation, rule, "take fewer folds, from 2")
    return torch.tensor(made)
