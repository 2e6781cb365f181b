import math

import pytest
import torch

from hdet.replica.explorer.loss_tracker import LossTracker
from hdet.seeding import generator


def tracked(losses):
    tracker = LossTracker()
    for loss in losses:
        tracker.update(loss)
    return tracker


def falling(syncs=12, scale=1.0, shift=0.0):
    """Return losses that fall from 3 to 2, with a little noise."""
    noise = (0.01 * torch.randn(syncs, generator=generator(0, "falling"))).tolist()
    return [scale * (3 - k / syncs + e) + shift for k, e in enumerate(noise)]


def test_the_tracker_measures_noise_and_not_jumps():
    tracker = LossTracker()
    for k in range(40):
        tracker.update(1.0 + 0.01 * (-1) ** k)
    calm = tracker.deviation
    tracker.update(50.0)
    assert tracker.deviation == calm
    assert calm == pytest.approx(0.01 * math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_what_explodes_does_not_hang_on_the_losses_scale_or_sign(scale, shift):
    tracker = tracked(falling(scale=scale, shift=shift * scale))
    small, large = (tracker.best + share * tracker.gain for share in (0.2, 0.5))
    assert not tracker.exploded(small, small)
    assert tracker.exploded(large, large)
    # Where one replica is as good as ever, the weights are not lost.
    assert not tracker.exploded(large, tracker.best)


def test_rounding_of_a_constant_loss_is_no_explosion():
    tracker = tracked([7.0] * 10)
    assert not tracker.exploded(7.0 + 1e-6, 7.0 + 1e-6)
    assert tracker.exploded(7.1, 7.1)


def test_before_the_noise_is_known_only_what_is_absurd_explodes():
    tracker = tracked([2.0, 1.9])
    assert not tracker.exploded(300.0, 300.0)
    assert tracker.exploded(1e20, 1e20)
    assert not LossTracker().exploded(1e20, 1e20)


@pytest.mark.parametrize("before", [2, 12])
def test_one_absurd_loss_leaves_noise_and_best_as_they_are(before):
    tracker = tracked(falling(before))
    deviation, best = tracker.deviation, tracker.best
    tracker.update(1e30)
    assert tracker.deviation == deviation
    assert tracker.best == best
    # And the smoothed loss comes down again in a few dozen syncs.
    for _ in range(60):
        tracker.update(2.0)
    assert tracker.smoothed == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("outlier", [-18.0, -1e30, 1e6, 1e30])
@pytest.mark.parametrize("replicas", [2, 3, 4, 8])
@pytest.mark.parametrize("seen", [0, 1, 2, 12])
def test_one_replicas_absurd_loss_is_an_outlier_at_any_sync(outlier, replicas, seen):
    if outlier == -18.0 and replicas == 2 and seen < 5:
        pytest.skip("one of two, and nothing known: the return that may follow mends it")
    tracker = tracked(falling(seen) if seen else [])
    losses = [2.0 + 0.01 * r for r in range(replicas)]
    assert tracker.outliers(losses) == []
    losses[1] = outlier
    assert tracker.outliers(losses) == [1]


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 2.1, 9.0, 14.0],  # the two largest rates have fallen off a cliff
        [2.0, 60.0, 60.1, 60.2],  # all but one have
        [1e6, 1.1e6, 1.2e6, 1.3e6],  # the world has changed
        [math.nan, 2.0, 2.1, math.inf],
        [math.nan, math.nan, 2.0],
    ],
)
def test_what_happens_to_replicas_by_itself_is_no_outlier(losses):
    assert tracked(falling()).outliers(losses) == []


@pytest.mark.parametrize("replicas", [2, 3, 4, 64])
def test_noise_is_no_outlier(replicas):
    found = 0
    for trial in range(50):
        draw = generator(trial, "noise", replicas)
        tracker = LossTracker()
        for _ in range(12):
            losses = torch.randn(replicas, generator=draw).tolist()
            found += len(tracker.outliers(losses)) if tracker.count > 2 else 0
            tracker.update(math.fsum(losses) / replicas)
    assert found == 0
