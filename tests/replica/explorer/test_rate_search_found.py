"""Whole searches on a noisy quadratic, which find its rate from wherever they begin."""

import math

import pytest
import torch

from hdet.replica.explorer.rate_search import RateSearch
from hdet.seeding import generator

REPLICAS, WEIGHTS = 4, 32
CURVATURES = torch.logspace(-2, 0, WEIGHTS, dtype=torch.float64)


def gradients(w, noise, g):
    return CURVATURES * w + noise * torch.randn(w.shape, generator=g, dtype=torch.float64)


def losses_of(w):
    return 0.5 * (CURVATURES * w * w).sum(-1)


def found_rate(written, noise, seed, trials=True):
    """Search the rate of gradient descent on a noisy quadratic; return it, and the steps."""
    g = generator(seed, "quadratic")
    search = RateSearch(REPLICAS, trials)
    w = torch.ones(REPLICAS, WEIGHTS, dtype=torch.float64)
    previous = start = w
    snapshots, steps = [], 0
    while search.phase != "done":
        own = gradients(w, noise, g)
        shared = own if search.phase == "trial" else own.mean(0).expand_as(own)
        product = (shared * (w - previous))[0]
        size = float(product.abs().sum())
        agreement = -float(product.sum()) / size if size else None
        factors = [written * math.exp(search.log_factor + x) for x in search.shifts()]
        before, x = w, search.log_factor
        w = w - torch.tensor(factors, dtype=torch.float64)[:, None] * shared
        previous = before
        steps += 1
        turn = search.advance(agreement)
        if turn.snapshot:
            snapshots.append((x, w))
        if turn.roll_back:
            safe = [kept for x, kept in snapshots if x <= search.log_factor]
            w = safe[-1] if safe else snapshots[0][1]
        if turn.score:
            losses, w = losses_of(w).tolist(), start
            turn = search.judge(losses)
        if turn.part:
            start = w
            if search.first_trial:
                search.before_trials(float(losses_of(w)[0]))
    return written * math.exp(search.log_factor), steps


def best_rate(noise, steps=300):
    """Return the rate that is best in a whole run, with a decay, to a factor of 1.3."""
    rates = 2.5 * 1.3 ** -torch.arange(20, dtype=torch.float64)
    w = torch.ones(20, WEIGHTS, dtype=torch.float64)
    g = generator(0, "run")
    for t in range(steps):
        decay = min(1.0, (steps - t) / (0.4 * steps))
        common = gradients(torch.zeros(1, WEIGHTS, dtype=torch.float64), noise / 2, g)
        w = w - decay * rates[:, None] * (CURVATURES * w + common)
    return float(rates[losses_of(w).nan_to_num(nan=math.inf).argmin()])


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("wrong_by", [1e-3, 0.03, 1.0, 30.0, 1e3])
def test_the_rate_is_found_from_a_thousandth_and_a_thousand_times_it(wrong_by, noise):
    right = best_rate(noise)
    for seed in range(5):
        found, steps = found_rate(wrong_by * right, noise, seed)
        assert right / 4 < found < 6 * right
        assert steps < 160
        # The climb alone comes close.
        bound, _ = found_rate(wrong_by * right, noise, seed, trials=False)
        assert right / 6 < bound < 6 * right
