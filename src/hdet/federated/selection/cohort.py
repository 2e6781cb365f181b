"""Diversity of the cohort: a set of clients whose joint data look like everybody's.

A client that is unlike the others is no gain by itself: ten clients with the same rare class
pull the model towards it together. So clients are chosen one after another for a cohort whose
joint histogram is near that of all clients,

    k = argmax  S_k / tau + Gumbel noise - (w_D / tau) JS(h_C + h_k, h) / ln 2

with h_k the label counts of k, h_C the sum over those chosen, and h the sum over all, each
divided by its total in JS, the Jensen-Shannon divergence. With w_D = 0 this is the draw from
softmax(S / tau). The mean update of such a cohort is nearer that of all clients, which makes
late rounds steadier.

The idea of choosing for the set is that of submodular client selection, Balakrishnan et al.,
"Diverse Client Selection for Federated Learning via Submodular Maximization", ICLR 2022, on
histograms in place of gradients.
"""

import math

import torch
from torch import Tensor

from .terms import js_divergence

# More candidates than this are first cut to those with the largest keys: a greedy choice reads
# every candidate once for each client chosen, which among a million would take seconds.
SHORTLIST = 4096
# A cohort of more clients than this is chosen several at a time: it is balanced by its size.
PASSES = 64


def draw_cohort(
    keys: Tensor, histograms: Tensor, weight: float, count: int, spare: Tensor | None = None
) -> Tensor:
    """Return `count` positions chosen one after another for the balance of their union.

    Args:
        keys: [K] scores over temperature, plus the draw's noise.
        histograms: [K, classes] label counts; a row of zeros where unknown, which counts as the
            mean of the known ones.
        weight: w_D / tau.
        count: how many, at most K.
        spare: [K] bool: positions to take only when the others do not suffice.
    """
    population = histograms.sum(0).double()
    if spare is not None:
        # Below any other key, and still in order among themselves.
        keys = torch.where(spare, keys - (keys.max() - keys.min() + weight + 1.0), keys)
    short = keys.topk(min(max(SHORTLIST, 4 * count), len(keys))).indices.sort().values
    keys, histograms = keys[short].clone(), histograms[short].double()
    known = histograms.sum(1) > 0
    at_once = -(-count // PASSES)
    chosen: list[Tensor] = []
    cohort = torch.zeros_like(population)
    for start in range(0, count, at_once):
        distance = torch.zeros_like(keys)
        if bool(known.any()):
            distance = js_divergence(cohort + histograms, population)
            distance[~known] = distance[known].mean()
        best = (keys - weight * distance).topk(min(at_once, count - start)).indices
        chosen.append(best)
        cohort = cohort + histograms[best].sum(0)
        keys[best] = -math.inf
    return short[torch.cat(chosen)]
