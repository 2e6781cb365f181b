"""A small population of clients whose reports depend on position and round alone."""

import math
from functools import cache

import torch

from hdet.federated.selection import (
    ClientReport,
    HeteroSelect,
    HeteroSelectV2,
    Oort,
    PowerOfChoice,
    Random,
)
from hdet.seeding import generator

SELECTORS = {
    "random": lambda seed=0: Random(seed),
    "pow-d": lambda seed=0: PowerOfChoice(12, seed=seed),
    "cpow-d": lambda seed=0: PowerOfChoice(8, "cpow-d", seed=seed),
    "rpow-d": lambda seed=0: PowerOfChoice(8, "rpow-d", seed=seed),
    "oort": lambda seed=0: Oort(seed=seed),
    "oort with pacer and blacklist": lambda seed=0: Oort(
        pacer_window=3, blacklist_rounds=2, epsilon=0.3, seed=seed
    ),
    "heteroselect": lambda seed=0: HeteroSelect(seed=seed),
    "heteroselect, reconstruction": lambda seed=0: HeteroSelect.reconstruction(100, seed),
    "heteroselect, cohort and probes": lambda seed=0: HeteroSelect(
        diversity="cohort", probe="all", w_diversity=1.0, temperature=0.5, seed=seed
    ),
    "heteroselect stale": lambda seed=0: HeteroSelect(
        probe="stale",
        diversity="updates",
        rescale_diversity=True,
        w_diversity=0.3,
        w_fairness=0.2,
        w_staleness=0.2,
        temperature=1.0,
        floor=0.2,
        seed=seed,
    ),
    "heteroselect of 6": lambda seed=0: HeteroSelect(probe=6, form="multiplicative", seed=seed),
    "heteroselect v2": lambda seed=0: HeteroSelectV2(seed=seed),
}


@cache
def report(position, round):
    """Return the report of the client at a position in a round."""
    draw = torch.rand(12, generator=generator(7, "report", position, round)).tolist()
    return ClientReport(
        loss=draw[0] + 0.1 * position,
        num_examples=10 + position,
        duration=1 + draw[1],
        update=torch.tensor(draw[2:7]) - 0.3,
        label_counts=[round_up(x) for x in draw[7:10]],
        squared_loss=None if draw[10] < 0.5 else (draw[0] + 0.1 * position) ** 2 * 1.2,
    )


def round_up(x):
    return math.ceil(20 * x)


def play(selector, ids, rounds, count=4, *, dead=(), backwards=False, first=1):
    """Run rounds on all of `ids`; the dead never answer. Return what was chosen in each."""
    chosen = []
    index_of = {client: p for p, client in enumerate(ids)}
    for round in range(first, first + rounds):
        asked = [c for c in selector.candidates(ids) if c not in dead]
        chosen.append(selector.select(round, ids, count, answers(asked, index_of, round)))
        replies = answers([c for c in chosen[-1] if c not in dead], index_of, round)
        if backwards:
            replies = dict(reversed(replies.items()))
        selector.feedback(round, replies)
    return chosen


def answers(clients, index_of, round):
    return {c: report(index_of[c], round) for c in clients}


def same(a, b):
    """Return whether two states are equal, NaN being equal to NaN."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a.nan_to_num(-7), b.nan_to_num(-7))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
