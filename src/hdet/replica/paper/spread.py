"""The multipliers of the replicas: evenly spaced around 1, with mean 1.

So the mean of what the replicas use is the base value itself.

Source: HDET (arXiv 2604.24708), equation (1). In symbols: N `n`, alpha `spread`,
delta `half_width`, rho_r the r-th of the list.
"""

from ...errors import require_number, require_whole


def spread_multipliers(n: int, spread: float) -> list[float]:
    """Return rho_r = 1 + alpha (r - (N-1)/2) / delta, with delta = max((N-1)/2, 0.5).

    The arguments, the order and the errors are those of `hdet.multipliers`.
    """
    require_whole("multipliers", "n", n, "give the number of replicas", low=1)
    remedy = "the paper uses 1/9; use 0 for no spread"
    require_number("multipliers", "spread", spread, remedy, low=0, below=1)
    middle = (n - 1) / 2
    half_width = max(middle, 0.5)
    return [1 + spread * (r - middle) / half_width for r in range(n)]
