import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.rate_search import CLIMB_WIDTH, RateSearch
from hdet.replica.explorer.returns import EXPLOSION
from hdet.seeding import generator
from hdet.state import Entries


def feed(search, signs, losses=None):
    """Feed syncs without cliffs; return the moves."""
    losses = losses or [2.0 - 0.01 * k for k in range(len(signs))]
    return [
        search.update(sign, loss, loss, cliff=False, place=0.0)
        for sign, loss in zip(signs, losses, strict=True)
    ]


def test_clear_evidence_climbs_ever_faster_and_never_beyond_what_was_tried():
    moves = feed(RateSearch.begin(True), [1.0] * 12)
    steps = [move.step for move in moves]
    assert all(0 < step <= CLIMB_WIDTH for step in steps)
    assert steps[-1] > 0.95 * CLIMB_WIDTH


def test_the_climb_ends_where_the_evidence_has_turned():
    search = RateSearch.begin(True)
    moves = feed(search, [1.0] * 6 + [-1.0] * 4)
    assert [move.stopped for move in moves].count(True) == 1
    assert not search.climbing
    assert moves[-1].step == 0


def test_noise_at_rates_far_too_low_does_not_end_the_climb():
    search = RateSearch.begin(True)
    moves = feed(search, [0.3, -0.2, 0.1, -0.3] * 5, [2.0, 2.01, 1.99, 2.0] * 5)
    assert search.climbing
    assert sum(move.step for move in moves) > 3


def test_a_search_that_was_not_asked_for_holds_from_the_start():
    moves = feed(RateSearch.begin(False), [1.0] * 5)
    assert [move.step for move in moves] == [0.0] * 5


def test_replicas_beyond_the_cliff_fall():
    search = RateSearch.begin(True)
    feed(search, [1.0] * 6, [2.3, 2.29, 2.28, 2.25, 2.2, 2.15])
    assert search.fallen([1.9, 2.0, 3.5, 5.0], slope=1.0) == [2, 3]
    # The same losses with the order turned are what a rate far too low looks like.
    assert search.fallen([1.9, 2.0, 3.5, 5.0], slope=-1.0) == []
    assert search.fallen([math.nan, 2.0, 2.01, 2.02], slope=1.0) == []


@pytest.mark.parametrize("replicas", [4, 64, 512])
@pytest.mark.parametrize("intervals", [3, 10])
def test_of_losses_of_different_batches_hardly_any_falls_by_chance(replicas, intervals):
    cliffs = 0
    for trial in range(100):
        draw = generator(trial, "noise", replicas, intervals)
        search = RateSearch.begin(True)
        for _ in range(intervals):
            search.tracker.update(float(torch.randn(replicas, generator=draw).mean()))
        losses = torch.randn(replicas, generator=draw).tolist()
        cliffs += bool(search.fallen(losses, slope=1.0, paired=False))
        # And those that have fallen are seen through the noise.
        losses[-2:] = [200.0, math.inf]
        found = search.fallen(losses, slope=1.0, paired=False)
        assert found[-2:] == [replicas - 2, replicas - 1]
    assert cliffs <= 5


def test_nothing_falls_before_the_noise_is_known():
    assert RateSearch.begin(True).fallen([1.0, 100.0], slope=1.0) == []


def test_a_loss_that_is_lost_again_is_an_explosion():
    search = RateSearch.begin(True)
    feed(search, [1.0] * 20, [2.3 - 0.05 * k for k in range(20)])
    move = search.update(0.0, 2.2, 2.1, cliff=False, place=0.0)
    assert move.exploded
    assert move.step == -EXPLOSION
    assert not search.climbing
    assert search.explosions == 1


def test_a_loss_that_is_not_finite_is_an_explosion():
    search = RateSearch.begin(False)
    feed(search, [0.0] * 3)
    assert search.update(0.0, math.nan, math.inf, cliff=False, place=0.0).exploded


def test_noise_around_a_plateau_is_none():
    search = RateSearch.begin(False)
    losses = [2.0, 1.5, 1.2, 1.0, *([0.9, 1.0, 0.95, 1.05] * 20)]
    moves = feed(search, [0.0] * len(losses), losses)
    assert not any(move.exploded for move in moves)


signals = st.lists(
    st.tuples(
        st.floats(-1, 1),
        st.one_of(st.floats(-1e9, 1e9), st.just(math.nan), st.just(math.inf)),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(signals)
def test_any_signal_leaves_a_state_that_round_trips(steps):
    search = RateSearch.begin(True)
    for clear, loss, cliff in steps:
        move = search.update(clear, loss, loss, cliff, 0.0)
        assert math.isfinite(move.step)
        assert move.step <= CLIMB_WIDTH
    again = RateSearch.parsed(Entries(search.state_dict(), "Explorer"))
    assert again == search
