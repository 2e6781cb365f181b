import math

import pytest
import torch

from hdet.replica.explorer.divergence import diverged, implausible
from hdet.replica.explorer.loss_tracker import LossTracker
from hdet.seeding import generator
from tests.replica.explorer.test_loss_tracker import falling, tracked


def found(losses, seen, slope=1.0, paired=True, start=-math.inf):
    """Return who has diverged after a search from one loss, and the intervals' losses."""
    tracker = LossTracker(start=start)
    for loss in seen:
        tracker.update(loss)
    return diverged(tracker, losses, slope, paired=paired)


def test_replicas_far_above_the_best_have_diverged_where_larger_rates_are_worse():
    losses = [1.9, 2.0, 5.5, 7.0]
    assert found(losses, falling()) == [2, 3]
    # The same losses with the order turned are what a rate far too low looks like.
    assert found(losses, falling(), slope=-1.0) == []
    assert found([math.nan, 2.0, 2.01, 2.02], falling()) == []


def test_far_is_four_times_what_the_run_has_gained_its_search_included():
    flat = [2.0, 2.01, 1.99, 2.0, 2.01, 1.99, 2.0]
    losses = [2.0, 2.0, 5.9, 6.1]
    assert found(losses, flat, start=3.0) == [3]
    assert found(losses, flat, start=4.0) == []


def test_where_nothing_was_gained_only_who_is_not_finite_has_diverged():
    flat = [2.0, 2.01, 1.99, 2.0, 2.01, 1.99, 2.0]
    assert found([2.0, 2.0, 6.0, 1e30], flat) == []
    assert found([2.0, 2.0, 6.0, math.inf], flat) == [3]


@pytest.mark.parametrize("replicas", [4, 64, 512])
@pytest.mark.parametrize("intervals", [3, 10])
def test_of_losses_of_different_batches_hardly_any_diverges_by_chance(replicas, intervals):
    by_chance = 0
    gain = max(1.0, 5 / math.sqrt(replicas))  # just beyond the noise of an interval
    for trial in range(100):
        draw = generator(trial, "noise", replicas, intervals)
        seen = [float(torch.randn(replicas, generator=draw).mean()) for _ in range(intervals)]
        losses = torch.randn(replicas, generator=draw).tolist()
        by_chance += bool(found(losses, seen, paired=False, start=gain))
        # And those that have diverged are seen through the noise.
        losses[-2:] = [200.0, math.inf]
        excluded = found(losses, seen, paired=False, start=10.0)
        assert excluded[-2:] == [replicas - 2, replicas - 1]
    assert by_chance <= 5


def test_nobody_has_diverged_before_the_noise_is_known():
    assert found([1.0, 100.0], []) == []


@pytest.mark.parametrize("outlier", [-18.0, -1e30, 1e6, 1e30])
@pytest.mark.parametrize("replicas", [2, 3, 4, 8])
@pytest.mark.parametrize("seen", [0, 1, 2, 12])
def test_one_replicas_odd_loss_is_implausible_at_any_sync(outlier, replicas, seen):
    if outlier == -18.0 and replicas == 2 and seen < 5:
        pytest.skip("one of two, and nothing known: the rollback that may follow mends it")
    tracker = tracked(falling(seen) if seen else [])
    losses = [2.0 + 0.01 * r for r in range(replicas)]
    assert implausible(tracker, losses) == []
    losses[1] = outlier
    assert implausible(tracker, losses) == [1]


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 2.1, 9.0, 14.0],  # the two largest rates have diverged
        [2.0, 60.0, 60.1, 60.2],  # all but one have
        [1e6, 1.1e6, 1.2e6, 1.3e6],  # the world has changed
        [math.nan, 2.0, 2.1, math.inf],
        [math.nan, math.nan, 2.0],
    ],
)
def test_what_happens_to_replicas_by_itself_is_plausible(losses):
    assert implausible(tracked(falling()), losses) == []


@pytest.mark.parametrize("replicas", [2, 3, 4, 64])
def test_noise_is_plausible(replicas):
    found = 0
    for trial in range(50):
        draw = generator(trial, "noise", replicas)
        tracker = LossTracker()
        for _ in range(12):
            losses = torch.randn(replicas, generator=draw).tolist()
            found += len(implausible(tracker, losses)) if tracker.count > 2 else 0
            tracker.update(math.fsum(losses) / replicas)
    assert found == 0
