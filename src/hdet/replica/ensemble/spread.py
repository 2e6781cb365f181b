"""Who trains with which value: the fan-out of a hyperparameter over the replicas.

The multipliers rho_r are evenly spaced around 1 and add up to N, so the mean of what
the replicas use is the base value itself. Once the controller acts, which replica plays
which multiplier is drawn anew for each hyperparameter at each sync; two of them explored
at once then do not confound each other.

Source: HDET (arXiv 2604.24708), equation (1). In symbols: N `n`, alpha `spread`,
delta `half_width`, rho_r `multipliers(n, spread)[r]`, pi `permutation(...)`.
"""

from functools import lru_cache

import torch
from torch import Tensor

from ...errors import require
from ...seeding import generator


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
    require(
        isinstance(n, int) and n >= 1,
        "multipliers",
        "n",
        n,
        "must be a whole number of at least 1",
        "give the number of replicas",
    )
    require(
        0 <= spread < 1,
        "multipliers",
        "spread",
        spread,
        "must lie in [0, 1), or the lowest multiplier would not be positive",
        "the paper uses 1/9; use 0 for no spread",
    )
    middle = (n - 1) / 2
    half_width = max(middle, 0.5)
    ranks = torch.arange(n, dtype=torch.float64)
    return 1 + spread * (ranks - middle) / half_width


def permutation(n: int, seed: int, sync: int, name: str) -> list[int]:
    """Return the order in which `n` replicas play the multipliers after sync `sync`.

    Every rank computes the same list from the same key, so nothing is sent. Local.

    Args:
        n: number of replicas.
        seed: the run's seed.
        sync: index of the sync that draws it.
        name: the hyperparameter; each has a permutation of its own.

    Returns:
        pi, where replica r uses multiplier number pi[r].
    """
    return torch.randperm(n, generator=generator(seed, "spread", sync, name)).tolist()


@lru_cache(maxsize=16)
def group_multipliers(
    n: int, spread: float, groups: int, seed: int, sync: int | None
) -> list[list[float]]:
    """Return rho_pi(r) for each parameter group and replica; kept, so read it only. Local.

    Args:
        n: number of replicas.
        spread: alpha.
        groups: how many parameter groups, each with a permutation of its own.
        seed: the run's seed.
        sync: index of the sync at which the controller last acted; None before it has,
            where replica r uses multiplier r in every group.
    """
    rho = multipliers(n, spread).tolist()
    if sync is None:
        return [rho] * groups
    orders = [permutation(n, seed, sync, f"lr {group}") for group in range(groups)]
    return [[rho[place] for place in order] for order in orders]
