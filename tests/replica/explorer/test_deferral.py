import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdet.replica.explorer.deferral import Deferral
from hdet.state import Entries


def beat(deferral, steps):
    """Return the phases that begin at the steps of syncs, and at which."""
    seen = []
    for step in steps:
        phase = deferral.due(step)
        if phase is not None:
            deferral.begin(phase, step)
            seen.append((step, phase))
    return seen


def test_an_update_of_20_steps_is_scored_after_15_over_20_more():
    assert beat(Deferral(20, 15), range(100, 200, 5)) == [
        (100, "moving"),
        (120, "waiting"),
        (135, "scoring"),
        (155, "moving"),
        (175, "waiting"),
        (190, "scoring"),
    ]


def test_where_syncs_are_rare_each_part_lasts_an_interval():
    seen = beat(Deferral(20, 15), range(0, 700, 100))
    names = ["moving", "waiting", "scoring"]
    assert seen == [(100 * k, names[k % 3]) for k in range(7)]


@given(st.integers(1, 50), st.integers(0, 50), st.lists(st.integers(1, 40), max_size=60))
def test_each_part_is_as_long_as_it_has_to_be_and_a_sync_longer_at_most(steps, delay, gaps):
    deferral, at, syncs = Deferral(steps, delay), 0, [0]
    for gap in gaps:
        at += gap
        syncs.append(at)
    seen = beat(deferral, syncs)
    least = {"moving": steps, "waiting": delay, "scoring": steps}
    for (began, phase), (ended, _) in zip(seen, seen[1:], strict=False):
        assert ended - began >= least[phase]
        before = [step for step in syncs if began <= step < ended]
        assert before[-1] - began < max(least[phase], 1)


def test_it_goes_on_from_its_state():
    deferral = Deferral(20, 15)
    beat(deferral, range(0, 30, 5))
    again = Deferral(20, 15).parsed(Entries(deferral.state_dict(), "Explorer"))
    assert again == deferral
    assert beat(again, range(30, 100, 5)) == beat(deferral, range(30, 100, 5))


def test_a_phase_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"phase` = 'resting'"):
        Deferral(20, 15).parsed(Entries({"phase": "resting", "since": 0}, "Explorer"))
