"""Who plays which value: drawn anew for each hyperparameter at each sync.

Two hyperparameters that are explored at once then do not confound each other.
"""

import torch

from ...seeding import generator


def permutation(n: int, seed: int, sync: int, name: str) -> list[int]:
    """Return pi: from a sync on, replica r plays value number pi[r] of the one called `name`.

    Every rank computes the same list from the same key, so nothing is sent. Local.
    """
    return torch.randperm(n, generator=generator(seed, "spread", sync, name)).tolist()
