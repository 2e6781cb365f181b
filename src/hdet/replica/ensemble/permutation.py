"""Who plays which value: drawn anew for each hyperparameter at each sync.

Two hyperparameters that are explored at once then do not confound each other. The order is that
of N hashes, so every order is as likely as any other, and it is the same on every machine and
under every framework.
"""

from ...seeding import digest


def permutation(n: int, seed: int, sync: int, name: str) -> list[int]:
    """Return pi: from a sync on, replica r plays value number pi[r] of the one called `name`.

    Every rank computes the same list from the same key, so nothing is sent. Local.
    """
    return sorted(range(n), key=lambda r: digest(seed, "spread", sync, name, r))
