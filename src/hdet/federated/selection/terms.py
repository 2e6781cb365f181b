"""The terms that a client's score is made of, each a plain function of tensors.

Every function takes [K] float64 tensors over the clients that are available and returns [K];
what is unknown is NaN, and comes out as the term's neutral value. Notation and formulas are
those of HeteRo-Select (arXiv 2508.06692): of its second version as its authors' code has them,
and of the first as reconstructed, see `heteroselect`.

    V'   value       how high the loss is            F'   fairness    how seldom it was invited
    M    momentum    how fast the loss falls         St'  staleness   how long ago
    D    diversity   how unlike the others, see `memory`
    N'   norm        how large the last update was
"""

import math

import torch

EPSILON = 1e-8


def min_max(values: torch.Tensor) -> torch.Tensor:
    """Return the values rescaled to [0, 1]; all ones if they do not differ.

    Args:
        values: [K] finite, K >= 1.
    """
    low, high = values.aminmax()
    if high - low <= EPSILON:
        return torch.ones_like(values)
    return (values - low) / (high - low + EPSILON)


def value(losses: torch.Tensor) -> torch.Tensor:
    """Return V': the losses rescaled to [0, 1]; 1 where infinite, which means "try it".

    Args:
        losses: [K] finite or +inf.
    """
    result = torch.ones_like(losses)
    finite = losses.isfinite()
    if bool(finite.any()):
        result[finite] = min_max(losses[finite])
    return result


def fairness(counts: torch.Tensor) -> torch.Tensor:
    """Return F' = clip(1 - c_k / mean c, -1, 1); all ones while nobody has been invited."""
    mean = counts.mean()
    return (1 - counts / mean).clamp(-1, 1) if mean > 0 else torch.ones_like(counts)


def log_age(number: int, last: torch.Tensor) -> torch.Tensor:
    """Return log(1 + t - l_k), the staleness before any scale.

    Args:
        number: t, the round.
        last: l_k, the round of the last invitation; 0 if never.
    """
    return (number - last).clamp(min=0).log1p()


def momentum(previous: torch.Tensor, current: torch.Tensor, scale: float) -> torch.Tensor:
    """Return M = sigmoid((L_prev - L_now) / scale); 1/2 where either is unknown."""
    return ((previous - current) / scale).sigmoid().nan_to_num(0.5)


def norm(squares: torch.Tensor) -> torch.Tensor:
    """Return N': squared norms rescaled to [0, 1] among the known; 1/2 where unknown."""
    return _among_known(squares)


def rescaled(diversity: torch.Tensor) -> torch.Tensor:
    """Return a diversity stretched to [0, 1] among the known; 1/2 where unknown.

    Sparse updates in many dimensions are all nearly orthogonal to their mean: unstretched,
    D tells clients once seen from the others, and little else.
    """
    return _among_known(diversity)


def temperature(number: int, rounds: int, start: float) -> float:
    """Return tau(t) = tau_0 (1 - 0.5 min(t / T, 1))."""
    return start * (1 - 0.5 * min(number / rounds, 1.0))


def label_divergence(histograms: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of each row to the mean of the rows, over ln 2.

    Args:
        histograms: [n, classes] non-negative, each row with a positive sum.

    Returns:
        [n] in [0, 1].
    """
    p = histograms / histograms.sum(1, keepdim=True)
    mean = p.mean(0)
    middle = (p + mean) / 2
    halves = torch.special.xlogy(p, p / middle) + torch.special.xlogy(mean, mean / middle)
    # A class that nobody has: 0 log(0/0).
    return (halves.nan_to_num(0.0).sum(1) / 2 / math.log(2)).clamp(0, 1)


def _among_known(values: torch.Tensor) -> torch.Tensor:
    result = torch.full_like(values, 0.5)
    known = ~values.isnan()
    if bool(known.any()):
        low, high = values[known].aminmax()
        if high - low > EPSILON:
            result[known] = min_max(values[known])
    return result
