"""The multipliers of the replicas: evenly spaced around 1, with mean 1.

So the mean of what the replicas use is the base value itself.

Source: HDET (arXiv 2604.24708), equation (1). In symbols: N `n`, alpha `spread`,
delta `half_width`, rho_r the r-th of the list.
"""

from ...errors import require


def spread_multipliers(n: int, spread: float) -> list[float]:
    """Return rho_r = 1 + alpha (r - (N-1)/2) / delta, with delta = max((N-1)/2, 0.5).

    The arguments, the order and the errors are those of `hdet.multipliers`.
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
    return [1 + spread * (r - middle) / half_width for r in range(n)]
