"""The terms of a client's score, each a plain function of tensors.

Every function takes [K] float64 tensors over the clients that are available and returns [K];
an unknown value is NaN, and gives the term's neutral value. Notation and formulas are those of
HeteRo-Select (arXiv 2508.06692): of its second version as its authors' code has them, and of
the first as reconstructed, see `heteroselect`.

    V'   value       how high the loss is            F'   fairness    how rarely it was invited
    M    momentum    how fast the loss falls         St'  staleness   how long ago
    D    diversity   how unlike the others           N'   norm        how large the last update
"""

import math

import torch
from torch import Tensor

EPSILON = 1e-8


def min_max(values: Tensor) -> Tensor:
    """Return the finite values, at least one, rescaled to [0, 1]; ones if they are equal."""
    low, high = values.aminmax()
    if high - low <= EPSILON:
        return torch.ones_like(values)
    return (values - low) / (high - low + EPSILON)


def min_max_known(values: Tensor) -> Tensor:
    """Return the known values rescaled to [0, 1]; 1/2 if unknown, or if all known are equal."""
    result = torch.full_like(values, 0.5)
    known = ~values.isnan()
    if bool(known.any()):
        low, high = values[known].aminmax()
        if high - low > EPSILON:
            result[known] = min_max(values[known])
    return result


def value(losses: Tensor) -> Tensor:
    """Return V': the losses rescaled to [0, 1]; 1 where +inf, for a client to be tried."""
    result = torch.ones_like(losses)
    finite = losses.isfinite()
    if bool(finite.any()):
        result[finite] = min_max(losses[finite])
    return result


def fairness(counts: Tensor) -> Tensor:
    """Return F' = clip(1 - c_k / mean c, -1, 1); all ones before the first invitation."""
    mean = counts.mean()
    return (1 - counts / mean).clamp(-1, 1) if mean > 0 else torch.ones_like(counts)


def log_age(number: int, last: Tensor) -> Tensor:
    """Return log(1 + t - l_k) of round t and the last invitations l_k, 0 if never."""
    return (number - last).clamp(min=0).log1p()


def momentum(previous: Tensor, current: Tensor, scale: float) -> Tensor:
    """Return M = sigmoid((L_prev - L_now) / scale); 1/2 where either is unknown."""
    return ((previous - current) / scale).sigmoid().nan_to_num(0.5)


def temperature(number: int, rounds: int, start: float) -> float:
    """Return tau(t) = tau_0 (1 - 0.5 min(t / T, 1))."""
    return start * (1 - 0.5 * min(number / rounds, 1.0))


def js_divergence(histograms: Tensor, reference: Tensor) -> Tensor:
    """Return JS(row, reference) / ln 2 of each row of counts, from 0 to 1.

    A row of zeros gives a number too, for the caller to replace.
    """
    totals = histograms.sum(1, keepdim=True)
    p, q = histograms / totals.masked_fill(totals == 0, 1.0), reference / reference.sum()
    middle = (p + q) / 2
    halves = torch.special.xlogy(p, p / middle) + torch.special.xlogy(q, q / middle)
    # A class without any examples: 0 log(0/0).
    return halves.nan_to_num(0.0).sum(1) / (2 * math.log(2))
