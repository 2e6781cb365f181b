"""Which examples are held out, and which train."""

import numpy as np
import torch
from torch import Tensor

from ...errors import require


def held_out_masks(
    call: str, numbers: np.ndarray, validation: float, order: np.ndarray
) -> Tensor:
    """Return ones where an example is held out, [folds, n]; classes as even as can be.

    `numbers` are the examples' classes, [n], `order` is a permutation of them, and
    `validation` a number of folds from 2 or a part in (0, 1).

    Raises:
        ValueError: if a fold would hold out no example, or all.
    """
    count = len(numbers)
    order = order[np.argsort(numbers[order], kind="stable")]
    if validation < 1:
        # Evenly along the classes: i is held out where i * validation passes an integer.
        rows = np.diff(np.floor(np.arange(count + 1) * validation))[None]
    else:
        rows = np.arange(count) % validation == np.arange(validation)[:, None]
    made = np.zeros(rows.shape)
    made[:, order] = rows
    enough = made.any(1).all() and (made == 0).any(1).all()
    rule = f"must leave examples on either side, and there are {count}"
    require(enough, call, "validation", validation, rule, "take fewer folds, at least 2")
    return torch.tensor(made)
