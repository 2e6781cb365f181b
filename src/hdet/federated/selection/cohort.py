"""Diversity of the cohort: a set of clients whose data, taken together, look like everybody's.

A client that is unlike the others is no gain by itself: ten clients with the same rare class
pull the model towards it together. What a round can bear is a cohort whose joint histogram is
near that of all clients, so clients are chosen one after another, and each is judged by what it
would make of the cohort so far,

    k = argmax  S_k / tau + Gumbel noise - (w_D / tau) JS(h_C + h_k, h) / ln 2

with h_k the label counts of k, h_C the sum over those chosen, and h the sum over all, each
divided by its total in JS, the Jensen-Shannon divergence. With w_D = 0 this is the draw from
softmax(S / tau). The mean update of such a cohort is nearer that of all clients, which is what
makes late rounds steadier.

The idea of choosing for the set is that of submodular client selection, Balakrishnan et al.,
"Diverse Client Selection for Federated Learning via Submodular Maximization", ICLR 2022, on
histograms in place of gradients.
"""

import math

import torch

# More candidates than this are first cut to those with the largest keys: a greedy choice reads
# every candidate once for each client chosen, and among a million that would take seconds.
SHORTLIST = 4096
# A cohort of more clients than this is chosen several at a time: it is balanced by its size.
PASSES = 64


def draw_cohort(
    keys: torch.Tensor,
    histograms: torch.Tensor,
    weight: float,
    count: int,
    spare: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `count` positions chosen one after another for the balance of their union.

    Args:
        keys: [K] scores over temperature, with the draw's noise in them.
        histograms: [K, classes] label counts; a row of zeros where unknown, and such a client
            is judged as the mean of the known ones.
        weight: w_D / tau.
        count: how many, at most K.
        spare: [K] bool: positions to take only when the others do not suffice.

    Returns:
        [count] positions, in the order chosen.
    """
    everybody = histograms.sum(0)
    if spare is not None:
        # Further down than any score can bring: still in order among themselves.
        keys = torch.where(spare, keys - (keys.max() - keys.min() + weight + 1.0), keys)
    short = keys.topk(min(max(SHORTLIST, 4 * count), len(keys))).indices.sort().values
    keys, histograms = keys[short].clone(), histograms[short].double()
    known, everybody = histograms.sum(1) > 0, everybody.double()
    at_once = -(-count // PASSES)
    chosen: list[torch.Tensor] = []
    cohort = torch.zeros_like(everybody)
    for start in range(0, count, at_once):
        distance = _distances(cohort + histograms, known, everybody)
        best = (keys - weight * distance).topk(min(at_once, count - start)).indices
        chosen.append(best)
        cohort = cohort + histograms[best].sum(0)
        keys[best] = -math.inf
    return short[torch.cat(chosen)]


def _distances(
    unions: torch.Tensor, known: torch.Tensor, everybody: torch.Tensor
) -> torch.Tensor:
    """Return JS(union, everybody) / ln 2 of each row; the mean of the known where unknown."""
    if not bool(known.any()):
        return torch.zeros(len(unions), dtype=torch.float64)
    q = unions / unions.sum(1, keepdim=True).clamp_min(1.0)
    p = everybody / everybody.sum()
    middle = (q + p) / 2
    halves = torch.special.xlogy(q, q / middle) + torch.special.xlogy(p, p / middle)
    distances = halves.nan_to_num(0.0).sum(1) / (2 * math.log(2))
    return torch.where(known, distances, distances[known].mean())
