import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.held_schedule import HeldSchedule

RISE_AND_FALL = [0.1, 0.2, 0.4, 0.7, 1.0, 0.7, 0.4, 0.2, 0.1]


def follow(values, end_at=None):
    """Run a schedule through, with the search ending at one step; return values and shares."""
    held = HeldSchedule(values[0], values[0])
    seen, shares = [], []
    for step, value in enumerate(values):
        if step:
            held.advance(value)
        if step == end_at:
            held.end_search()
        seen.append(held.value)
        shares.append(held.share)
    return seen, shares


def test_the_scale_is_constant_once_the_schedule_has_passed_its_maximum():
    held = HeldSchedule(0.2, 0.2)
    assert held.scale == 1.0
    held.end_search()
    for value, scale in ((0.2, 1.0), (0.4, 0.5), (1.0, 0.2), (0.5, 0.2), (0.0, 0.2)):
        held.advance(value)
        assert held.scale == scale
        assert held.value == pytest.approx(scale * value)
    held.highest = 0.0
    assert held.scale == 1.0


def test_a_search_that_goes_on_follows_rises_and_falls():
    assert follow(RISE_AND_FALL)[0] == RISE_AND_FALL


@pytest.mark.parametrize("end_at", [0, 2, 4, 6, 8])
def test_before_and_at_the_end_of_the_search_it_is_the_schedule_itself(end_at):
    seen, _ = follow(RISE_AND_FALL, end_at)
    assert seen[: end_at + 1] == RISE_AND_FALL[: end_at + 1]


def test_rises_after_the_search_are_not_followed():
    seen, _ = follow(RISE_AND_FALL, 2)
    assert seen[2:5] == [0.4, 0.4, 0.4]


def test_falls_after_the_search_are_followed_by_the_same_share_of_the_maximum():
    seen, _ = follow(RISE_AND_FALL, 2)
    assert seen[5:] == pytest.approx([0.4 * share for share in RISE_AND_FALL[5:]], rel=1e-12)


def test_a_search_that_ends_at_the_maximum_keeps_the_schedule():
    assert follow(RISE_AND_FALL, 4)[0] == pytest.approx(RISE_AND_FALL, rel=1e-12)


def test_a_search_that_ends_after_the_maximum_forgets_what_was_higher_before():
    seen, shares = follow(RISE_AND_FALL, 6)
    assert seen[6:] == pytest.approx(RISE_AND_FALL[6:], rel=1e-12)
    assert shares[6:] == pytest.approx([1.0, 0.5, 0.25])


def test_a_return_to_the_maximum_is_a_return_to_the_value_at_the_end():
    seen, shares = follow([0.3, 0.6, 0.2, 0.6, 0.9, 0.45], 0)
    assert seen == pytest.approx([0.3, 0.3, 0.1, 0.3, 0.3, 0.15])
    assert [seen[k] for k in (0, 1, 3, 4)] == [0.3] * 4
    assert shares == pytest.approx([1.0, 1.0, 1 / 3, 1.0, 1.0, 0.5])


def test_the_share_is_of_the_maximum_so_far():
    _, shares = follow(RISE_AND_FALL)
    assert shares[:5] == [1.0] * 5
    assert shares[5:] == pytest.approx([0.7, 0.4, 0.2, 0.1])


@pytest.mark.parametrize("end_at", [None, 0, 1])
def test_a_schedule_of_zeros_is_zero(end_at):
    seen, shares = follow([0.0] * 3, end_at)
    assert seen == [0.0] * 3
    assert shares == [1.0] * 3


def test_zero_at_the_end_of_the_schedule_is_zero():
    seen, shares = follow([1.0, 0.5, 0.0], 0)
    assert seen[-1] == 0.0
    assert shares[-1] == 0.0


rates = st.floats(0, 1e6)


@settings(max_examples=300, deadline=None)
@given(st.lists(rates, min_size=1, max_size=30), st.data())
def test_it_never_stands_above_the_value_at_which_the_search_ended(values, data):
    end_at = data.draw(st.integers(0, len(values) - 1))
    seen, shares = follow(values, end_at)
    assert seen[end_at] == values[end_at]
    for value, share in zip(seen[end_at:], shares[end_at:], strict=True):
        assert 0 <= value <= values[end_at]
        assert 0 <= share <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(rates, min_size=1, max_size=10), st.lists(rates, max_size=10), st.booleans())
def test_a_state_goes_on_identically(before, after, ended):
    held = HeldSchedule(before[0], before[0])
    for value in before[1:]:
        held.advance(value)
    if ended:
        held.end_search()
    again = HeldSchedule(**json.loads(json.dumps(held.state_dict())))
    assert again == held
    for value in after:
        held.advance(value)
        again.advance(value)
        assert math.isfinite(again.value)
        assert (again.value, again.share) == (held.value, held.share)


def test_a_saved_state_does_not_change_with_what_comes_after():
    held = HeldSchedule(0.5, 0.5)
    state = held.state_dict()
    held.advance(0.9)
    held.end_search()
    assert state == {"now": 0.5, "highest": 0.5, "ended_at": None}
