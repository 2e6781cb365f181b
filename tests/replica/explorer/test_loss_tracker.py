import math

import pytest
import torch

from hdet.replica.explorer.loss_tracker import LossTracker
from hdet.seeding import generator
from hdet.state import Entries


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


@pytest.mark.parametrize(("examples", "most"), [(10, 15), (100, 5), (1000, 3)])
def test_noise_alone_is_seldom_taken_for_a_spike(examples, most):
    """A hundred runs of a hundred intervals in which nothing is learned."""
    draw = generator(0, "plateau", examples)
    noise = torch.randn(100, 100, examples, generator=draw).square().mean(-1)
    spiked = 0
    for losses in noise.tolist():
        tracker, found = LossTracker(), False
        for loss in losses:
            found |= tracker.spiked(loss, loss)
            tracker.update(loss)
        spiked += found
    assert spiked <= most


def test_the_less_is_known_of_the_noise_the_further_it_may_reach():
    tracker = LossTracker()
    reaches = []
    for k in range(200):
        tracker.update(1.0 + 0.01 * (-1) ** k)
        reaches.append(tracker.reach / tracker.deviation if tracker.weight else math.inf)
    assert reaches[0] == math.inf
    assert all(a >= b for a, b in zip(reaches, reaches[1:], strict=False))
    # Student's t with 12.7 degrees of freedom has the quantile of 4 normal deviations there.
    assert reaches[-1] == pytest.approx(5.85, rel=0.03)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_what_a_spike_is_does_not_hang_on_the_losses_scale_or_sign(scale, shift):
    tracker = tracked(falling(30, scale=scale, shift=shift * scale))
    small, large = (tracker.best + share * tracker.improvement for share in (0.2, 0.5))
    assert not tracker.spiked(small, small)
    assert tracker.spiked(large, large)
    # Where one replica is as good as ever, the weights are not lost.
    assert not tracker.spiked(large, tracker.best)


def test_rounding_of_a_constant_loss_is_no_spike():
    tracker = tracked([7.0] * 10)
    assert not tracker.spiked(7.0 + 1e-6, 7.0 + 1e-6)
    assert tracker.spiked(7.1, 7.1)


def test_before_the_noise_is_known_only_what_is_implausible_is_a_spike():
    tracker = tracked([2.0, 1.9])
    assert not tracker.spiked(300.0, 300.0)
    assert tracker.spiked(1e20, 1e20)
    assert not LossTracker().spiked(1e20, 1e20)


@pytest.mark.parametrize("before", [2, 12])
def test_one_implausible_loss_leaves_noise_and_best_as_they_are(before):
    tracker = tracked(falling(before))
    deviation, best = tracker.deviation, tracker.best
    tracker.update(1e30)
    assert tracker.deviation == deviation
    assert tracker.best == best
    # And the smoothed loss comes down again in a few dozen syncs.
    for _ in range(60):
        tracker.update(2.0)
    assert tracker.smoothed == pytest.approx(2.0, abs=0.01)


def test_the_improvement_is_counted_from_the_loss_of_the_search_if_that_is_higher():
    for start, expected in ((6.0, 4.0), (1.0, 0.0), (math.nan, 0.0), (math.inf, 0.0)):
        tracker = LossTracker()
        tracker.begin(start)
        assert tracker.improvement == 0.0
        tracker.update(2.0)
        assert tracker.improvement == expected


def test_a_state_of_before_there_was_a_start_loads():
    tracker = tracked(falling())
    state = tracker.state_dict()
    assert LossTracker.parsed(Entries(state, "Explorer"), tracker.config) == tracker
    del state["start"]
    assert LossTracker.parsed(Entries(state, "Explorer"), tracker.config) == tracker
