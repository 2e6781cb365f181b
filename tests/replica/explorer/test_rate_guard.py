import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.config import SearchConfig
from hdet.replica.explorer.rate_guard import RateGuard
from hdet.state import Entries

CONFIG = SearchConfig()
FALLING = [2.3 - 0.05 * k for k in range(20)]


def feed(guard, losses, log_rate=0.0):
    """Feed syncs at which nobody is excluded; return the moves."""
    return [guard.update(loss, loss, False, log_rate) for loss in losses]


def test_while_the_loss_falls_nothing_is_done():
    guard = RateGuard()
    for move in feed(guard, FALLING):
        assert (move.step, move.note) == (0.0, "")
        assert not move.rollback
        assert not move.given_back
        assert not move.new_level
    assert guard.rollbacks == guard.exclusions == 0
    assert guard.tracker.count == len(FALLING)


def test_a_loss_that_is_lost_again_asks_for_a_rollback_and_a_third_of_the_rate():
    guard = RateGuard()
    feed(guard, FALLING)
    move = guard.update(2.2, 2.1, excluded=False, log_rate=0.0)
    assert move.rollback
    assert move.step == -math.log(3)
    assert move.note.startswith("loss spike (")
    assert guard.rollbacks == 1


def test_where_one_replica_is_as_good_as_ever_nothing_is_lost():
    guard = RateGuard()
    feed(guard, FALLING)
    assert not guard.update(2.2, guard.tracker.best, excluded=False, log_rate=0.0).rollback


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e200])
def test_a_loss_that_is_not_finite_asks_for_a_rollback(loss):
    guard = RateGuard()
    feed(guard, [2.0] * 3)
    move = guard.update(loss, math.inf, excluded=False, log_rate=0.0)
    assert move.rollback
    assert move.note == "the loss is not finite"
    assert guard.tracker.count == 3


def test_noise_around_a_plateau_asks_for_none():
    guard = RateGuard()
    moves = feed(guard, [2.0, 1.5, 1.2, 1.0, *([0.9, 1.0, 0.95, 1.05] * 20)])
    assert not any(move.rollback for move in moves)


def test_after_an_implausible_loss_the_rate_is_tried_again_once_all_is_calm():
    guard = RateGuard()
    feed(guard, FALLING, log_rate=1.0)
    (fallen,) = feed(guard, [1e6], log_rate=1.0)
    assert fallen.rollback
    lowered = 1.0 + fallen.step
    moves = feed(guard, [1.35] * CONFIG.calm_syncs, log_rate=lowered)
    assert [move.given_back for move in moves] == [False, False, True]
    assert [move.step for move in moves] == pytest.approx([0.0, 0.0, math.log(3)])
    assert moves[-1].note == "all is calm since the rollback, and the rate is tried again"


def test_what_a_spike_loses_is_measured_from_the_loss_of_the_search():
    # The intervals alone have gained nothing: 2.0 to 2.0 with noise; from 6.0 it is 4.0.
    flat = [2.0, 2.01, 1.99, 2.0, 2.01, 1.99, 2.0]
    with_search, without = RateGuard(), RateGuard()
    with_search.tracker.begin(6.0)
    feed(with_search, flat)
    feed(without, flat)
    assert with_search.tracker.improvement == pytest.approx(4.0, abs=0.02)
    assert not with_search.update(2.5, 2.5, excluded=False, log_rate=0.0).rollback
    assert without.update(2.5, 2.5, excluded=False, log_rate=0.0).rollback
    assert with_search.update(3.5, 3.5, excluded=False, log_rate=0.0).rollback


def test_exclusions_are_counted_and_are_not_calm():
    guard = RateGuard()
    feed(guard, [*FALLING, 1e6])
    for _ in range(2 * CONFIG.calm_syncs):
        assert not guard.update(1.35, 1.35, excluded=True, log_rate=0.0).given_back
    assert guard.exclusions == 2 * CONFIG.calm_syncs


signals = st.lists(
    st.tuples(
        st.one_of(st.floats(-1e9, 1e9), st.just(math.nan), st.just(math.inf)),
        st.booleans(),
        st.floats(-5, 5),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(signals)
def test_any_signal_leaves_a_state_that_round_trips(steps):
    guard = RateGuard()
    for loss, excluded, log_rate in steps:
        move = guard.update(loss, loss, excluded, log_rate)
        assert math.isfinite(move.step)
        assert move.given_back or -CONFIG.rollback_fall <= move.step <= 0
        assert bool(move.note) or not move.rollback
    again = RateGuard.parsed(Entries(guard.state_dict(), "Explorer"), CONFIG)
    assert again.state_dict() == guard.state_dict()
    assert feed(again, [1.0, 50.0, 1.0]) == feed(guard, [1.0, 50.0, 1.0])
