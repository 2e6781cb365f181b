import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.dimensions import Dimension
from hdet.replica.explorer.held_schedule import HeldSchedule, risen_shares
from hdet.state import Entries

RISE_AND_FALL = [0.1, 0.2, 0.4, 0.7, 1.0, 0.7, 0.4, 0.2, 0.1]


def follow(values, searching=range(0), peak=1.0):
    """Run a schedule through, with a search at some steps; return values and shares."""
    held = HeldSchedule(values[0], values[0])
    seen, shares = [], []
    for step, value in enumerate(values):
        if step:
            held.advance(value)
        held.peak = peak if step in searching else None
        seen.append(held.value)
        shares.append(held.share)
    return seen, shares


def test_without_a_search_it_is_the_schedule_itself():
    assert follow(RISE_AND_FALL)[0] == RISE_AND_FALL


@pytest.mark.parametrize("end", [1, 2, 4, 6, 9])
def test_a_search_is_around_the_peak_and_what_follows_on_the_schedule_itself(end):
    seen, _ = follow(RISE_AND_FALL, range(end), peak=0.8)
    assert seen == [0.8] * end + RISE_AND_FALL[end:]


def test_the_share_is_of_the_maximum_so_far_also_in_a_search():
    for searching in (range(0), range(9)):
        _, shares = follow(RISE_AND_FALL, searching)
        assert shares[:5] == [1.0] * 5
        assert shares[5:] == pytest.approx([0.7, 0.4, 0.2, 0.1])


@pytest.mark.parametrize(("value", "falls"), [(1 - 1e-7, False), (1 - 1e-5, True), (0.0, True)])
def test_a_schedule_falls_where_it_is_below_its_maximum_by_more_than_rounding(value, falls):
    held = HeldSchedule(0.1, 0.1)
    assert not held.falls
    held.advance(1.0)
    held.advance(value)
    assert held.falls == falls


def test_a_schedule_is_above_what_was_written_where_it_has_been_by_more_than_rounding():
    held = HeldSchedule(0.1, 0.1)
    assert not held.above_written  # there was no search
    held.written = 1.0
    for value, above in [(1 + 1e-7, False), (1.1, True), (0.1, True)]:
        held.advance(value)
        assert held.above_written == above


def test_a_schedule_of_zeros_is_zero():
    assert follow([0.0] * 3) == ([0.0] * 3, [1.0] * 3)


def test_zero_at_the_end_of_the_schedule_is_zero():
    seen, shares = follow([1.0, 0.5, 0.0], range(1))
    assert seen[-1] == 0.0
    assert shares[-1] == 0.0


rates = st.floats(0, 1e6)


@settings(max_examples=100, deadline=None)
@given(st.lists(rates, min_size=1, max_size=10), st.lists(rates, max_size=10), st.booleans())
def test_a_state_goes_on_identically(before, after, searching):
    held = HeldSchedule(before[0], before[0], 0.7 if searching else None)
    for value in before[1:]:
        held.advance(value)
    state = json.loads(json.dumps(held.state_dict()))
    again = HeldSchedule.parsed(Entries(state, "Explorer"))
    assert again == held
    for value in after:
        held.advance(value)
        again.advance(value)
        assert math.isfinite(again.value)
        assert 0 <= again.share <= 1
        assert (again.value, again.share) == (held.value, held.share)


def test_a_saved_state_does_not_change_with_what_comes_after():
    held = HeldSchedule(0.5, 0.5, 0.8)
    state = held.state_dict()
    held.advance(0.9)
    held.peak = None
    assert state == {"now": 0.5, "highest": 0.5, "peak": 0.8, "written": 0.0}


@pytest.mark.parametrize("ended_at", [None, 0.3])
def test_a_state_of_before_there_was_a_peak_follows_the_schedule(ended_at):
    entries = Entries({"now": 0.4, "highest": 0.9, "ended_at": ended_at}, "Explorer")
    assert HeldSchedule.parsed(entries) == HeldSchedule(0.4, 0.9)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("now", 0.6, r"now` = 0.6, which must lie in \[0, 0.5\]"),
        ("highest", math.inf, "highest` = inf"),
        ("peak", -0.1, "peak` = -0.1"),
        ("peak", math.nan, "peak` = nan"),
        ("peak", "0.8", "peak` = '0.8'"),
    ],
)
def test_a_damaged_state_is_refused(key, value, words):
    state = {**HeldSchedule(0.5, 0.5, 0.8).state_dict(), key: value}
    with pytest.raises(ValueError, match=words):
        HeldSchedule.parsed(Entries(state, "Explorer"))


def _dimension(group):
    return Dimension("x", "log", 0.1, (0.1, 10.0), 1.0, group, lambda: 1.0, lambda x: None)


def test_a_rate_waits_until_its_schedule_has_once_come_to_a_share_of_what_the_user_wrote():
    held = HeldSchedule(0.0, 0.0, written=0.8)
    dimensions, seen = [_dimension(0), _dimension(None)], []
    for value in RISE_AND_FALL:
        held.advance(value)
        seen.append(risen_shares(dimensions, [held], 0.5))
    expected = [0.0, 0.0, 1.0, 1.0, 1.0, 0.7, 0.4, 0.2, 0.1]
    assert [rate for rate, _ in seen] == pytest.approx(expected)
    assert all(other == 1.0 for _, other in seen)  # what has no schedule


def test_without_a_search_there_is_nothing_to_rise_to():
    assert risen_shares([_dimension(0)], [HeldSchedule(0.0, 0.0)], 0.5) == [1.0]


def test_a_state_keeps_what_the_user_wrote_and_an_older_one_has_none():
    state = HeldSchedule(0.1, 0.2, None, 0.8).state_dict()
    assert HeldSchedule.parsed(Entries(state, "Explorer")).written == 0.8
    del state["written"]
    assert HeldSchedule.parsed(Entries(state, "Explorer")).written == 0.0
