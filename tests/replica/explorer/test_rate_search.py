import math

from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.config import SearchConfig
from hdet.replica.explorer.rate_search import RateSearch
from hdet.state import Entries

WIDTH = SearchConfig().search_width


def feed(search, signs, losses=None):
    """Feed syncs at which nobody is excluded; return the moves."""
    losses = losses or [2.0 - 0.01 * k for k in range(len(signs))]
    return [
        search.update(sign, loss, loss, excluded=False, log_rate=0.0)
        for sign, loss in zip(signs, losses, strict=True)
    ]


def test_clear_signals_raise_the_rate_ever_faster_and_never_beyond_what_was_tried():
    moves = feed(RateSearch(True), [1.0] * 12)
    steps = [move.step for move in moves]
    assert all(0 < step <= WIDTH for step in steps)
    assert steps[-1] > 0.95 * WIDTH


def test_the_search_ends_where_the_confidence_has_turned():
    search = RateSearch(True)
    assert search.phase == "search"
    moves = feed(search, [1.0] * 6 + [-1.0] * 4)
    assert search.phase == "track"
    assert moves[-1].step == 0


def test_noise_at_rates_far_too_low_does_not_end_the_search():
    search = RateSearch(True)
    moves = feed(search, [0.3, -0.2, 0.1, -0.3] * 5, [2.0, 2.01, 1.99, 2.0] * 5)
    assert search.searching
    assert sum(move.step for move in moves) > 3


def test_a_search_that_was_not_asked_for_tracks_from_the_start():
    moves = feed(RateSearch(False), [1.0] * 5)
    assert [move.step for move in moves] == [0.0] * 5


def test_a_loss_that_is_lost_again_asks_for_a_rollback():
    search = RateSearch(True)
    feed(search, [1.0] * 20, [2.3 - 0.05 * k for k in range(20)])
    move = search.update(0.0, 2.2, 2.1, excluded=False, log_rate=0.0)
    assert move.rollback
    assert move.step == -math.log(3)
    assert not search.searching
    assert search.rollbacks == 1


def test_a_loss_that_is_not_finite_asks_for_a_rollback():
    search = RateSearch(False)
    feed(search, [0.0] * 3)
    assert search.update(0.0, math.nan, math.inf, excluded=False, log_rate=0.0).rollback


def test_noise_around_a_plateau_is_none():
    search = RateSearch(False)
    losses = [2.0, 1.5, 1.2, 1.0, *([0.9, 1.0, 0.95, 1.05] * 20)]
    moves = feed(search, [0.0] * len(losses), losses)
    assert not any(move.rollback for move in moves)


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
    search = RateSearch(True)
    for sign, loss, excluded in steps:
        move = search.update(sign, loss, loss, excluded, 0.0)
        assert math.isfinite(move.step)
        assert move.step <= WIDTH
    again = RateSearch.parsed(Entries(search.state_dict(), "Explorer"), SearchConfig())
    assert again.state_dict() == search.state_dict()
