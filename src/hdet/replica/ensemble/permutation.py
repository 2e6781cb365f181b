"""Who plays which value: drawn anew for each hyperparameter at each sync.

Two hyperparameters that are explored at once then do not confound each other.
"""

import torch

from ...seeding import generator


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
