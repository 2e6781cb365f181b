"""Weighted draws without replacement, as fast for a million clients as for ten.

Drawing one after another with probabilities proportional to w, each time among those left, is
the same as giving everyone the key log w - log E with E exponential, and taking the largest
keys: the "Gumbel top-k" draw. One pass, no rejection, and no sum that underflows.

Sources: Yellott, J. Math. Psychology 15 (1977); Efraimidis and Spirakis, Inf. Proc. Letters 97
(2006).
"""

import torch
from torch import Tensor


def keys(log_weights: Tensor, source: torch.Generator) -> Tensor:
    """Return random keys whose descending order is a weighted draw without replacement."""
    noise = torch.empty(len(log_weights), dtype=torch.float64).exponential_(generator=source)
    return log_weights - noise.log_()


def largest(values: Tensor, count: int, spare: Tensor | None = None) -> Tensor:
    """Return the positions of the largest values, of spare ones only if others are too few."""
    if spare is None:
        return values.topk(count).indices
    first, rest = ((spare == last).nonzero().squeeze(1) for last in (False, True))
    chosen = first[values[first].topk(min(count, len(first))).indices]
    return torch.cat([chosen, rest[values[rest].topk(count - len(chosen)).indices]])


def draw(
    log_weights: Tensor, count: int, source: torch.Generator, spare: Tensor | None = None
) -> Tensor:
    """Return positions drawn by float64 `log_weights`, in the order drawn; spare ones last."""
    return largest(keys(log_weights, source), count, spare)


def draw_uniform(size: int, count: int, source: torch.Generator) -> Tensor:
    """Return `count` of `size` positions drawn with equal chances, without replacement."""
    return draw(torch.zeros(size, dtype=torch.float64), count, source)
