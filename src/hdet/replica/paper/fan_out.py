"""Which replica trains with which multiple of the base rate: equation (1), and who plays what.

Once the controller acts, which replica plays which multiplier is drawn anew for each parameter
group at each sync.

Source: HDET (arXiv 2604.24708), equation (1).
"""

from functools import lru_cache

import torch
from torch import Tensor

from ..ensemble.permutation import permutation
from .spread import spread_multipliers


def multipliers(n: int, spread: float) -> Tensor:
    """Return the multiplier of each of `n` replicas, equation (1).

    rho_r = 1 + alpha (r - (N-1)/2) / delta, with delta = max((N-1)/2, 0.5). Local.

    Args:
        n: number of replicas N, at least 1.
        spread: alpha in [0, 1): the lowest multiplier is 1 - alpha, the highest
            1 + alpha. 0 gives exact ones, and so does a single replica.

    Returns:
        float64 tensor of shape [n], ascending, of mean 1.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Cheng et al., arXiv 2604.24708, fan-out rule.
    """
    return torch.tensor(spread_multipliers(n, spread), dtype=torch.float64)


@lru_cache(maxsize=16)
def group_multipliers(
    n: int, spread: float, groups: int, seed: int, sync: int | None
) -> list[list[float]]:
    """Return rho_pi(r) for each parameter group and replica; kept, so read it only. Local.

    `sync` is the one at which the controller last acted. None before it has: replica r then
    uses multiplier r in every group.
    """
    rho = spread_multipliers(n, spread)
    if sync is None:
        return [rho] * groups
    orders = [permutation(n, seed, sync, f"lr {group}") for group in range(groups)]
    return [[rho[index] for index in order] for order in orders]
