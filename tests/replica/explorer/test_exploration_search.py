"""`Exploration` while the scale of the rates is searched, and while what was found is held."""

import copy
import io
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.config import SearchConfig
from hdet.replica.explorer.rate_search import RateSearch
from tests.replica.explorer.test_exploration import (
    OWN_WIDTH,
    better_if_larger,
    better_if_smaller,
    diverging,
    explore,
    fall_quietly,
    load,
    log_values,
    sync,
)

CONFIG = SearchConfig()
START = math.log(CONFIG.climb_start)


def step(exploration, agreement=None, losses=None):
    """Do one step of the search; at the end of a trial the replicas have these losses."""
    search = exploration.search
    turn = search.advance(agreement)
    if turn.part:
        search.before_trials(9.0)
    if turn.score:
        search.judge(losses or [1.0 + r for r in range(exploration.replicas)])
    exploration.follow_search()


def go_to(exploration, phase, climbed=10):
    """Go on to the beginning of a phase, or to the end, where the search is None."""
    while exploration.search is not None and exploration.search.phase != phase:
        climbing = exploration.search.phase == "climb"
        risen = exploration.search.steps >= climbed
        step(exploration, math.nan if climbing and risen else 0.9)
    return exploration


def found(which=("lr",), **options):
    """Return an exploration at the end of its search."""
    return go_to(explore(which, search=True, **options), "done")


def log_factor(exploration):
    """Return where the search stands."""
    assert exploration.search is not None
    return exploration.search.log_factor


def checked(exploration):
    """Check that all values are within bounds; return those of the first dimension."""
    rows, bases = exploration.values(), exploration.base_values()
    for d, base, row in zip(exploration.dimensions, bases, rows, strict=True):
        low, high = d.bounds
        assert all(low <= value <= high for value in [base, *row]), d.name
    return rows[0]


# --- search


def test_a_search_begins_far_below_the_users_rate():
    exploration = explore(["lr", "temperature"], search=True)
    assert isinstance(exploration.search, RateSearch)
    assert exploration.base_values() == pytest.approx([1e-3, 1e-3, 2.0])


def test_where_no_rate_is_explored_there_is_none():
    assert explore(["temperature"], search=True).search is None


def test_in_the_climb_all_rates_are_one_and_everything_else_stays():
    exploration = explore(["lr", "temperature", "p"], replicas=3, search=True)
    for k in range(6):
        x = log_factor(exploration)
        assert x == pytest.approx(START + 0.6 * k)
        rate = [math.exp(x)] * 3
        expected = [rate, rate, [2.0] * 3, [0.3] * 3]
        for row, wanted in zip(exploration.values(), expected, strict=True):
            assert row == pytest.approx(wanted)
        assert exploration.base_values() == [row[0] for row in exploration.values()]
        step(exploration, 0.9)


def test_in_a_trial_each_replica_has_a_rate_of_its_own_and_nothing_else():
    exploration = go_to(explore(["lr", "temperature"], search=True), "trial")
    base = exploration.base_values()[0]
    for _ in range(CONFIG.trial_steps // 2):
        step(exploration)
    first, second, other = exploration.values()
    assert first == second == pytest.approx([base * 10 ** (k / 3) for k in range(4)])
    assert other == pytest.approx([2.0] * 4)
    assert exploration.base_values() == pytest.approx([base, base, 2.0])


def test_without_trials_the_climb_alone_decides():
    exploration = go_to(explore(search=True, trials=False), "settle")
    settled = list(exploration.coordinates)
    go_to(exploration, "done")
    assert exploration.search is None
    assert exploration.held
    rise = math.log(CONFIG.untried_rise)
    assert exploration.coordinates == pytest.approx([x + rise for x in settled])


def test_the_end_of_a_search_leaves_the_rates_where_it_stands():
    exploration = go_to(explore(["lr", "temperature"], search=True), "trial")
    before = log_factor(exploration)
    go_to(exploration, "done")
    # Losses 1 to 4, and 9 before: a difference of 0.4 * (9 - 1) is a factor e of the weight.
    weights = [math.exp(-loss / 3.2) for loss in range(4)]
    mean = (weights[1] + 2 * weights[2] + 3 * weights[3]) / sum(weights)
    expected = before + mean * math.log(10) / 3 + math.log(2)
    assert exploration.coordinates[:2] == pytest.approx([expected] * 2)
    assert exploration.base_values()[2] == pytest.approx(2.0)


def test_a_search_that_is_given_up_leaves_the_rates_where_they_are():
    exploration = explore(["one lr"], search=True)
    for _ in range(4):
        step(exploration, 0.9)
    at = list(exploration.coordinates)
    exploration.end_search()
    assert exploration.search is None
    assert exploration.held
    assert exploration.coordinates == at


@pytest.mark.parametrize("losses", [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [math.nan] * 4])
@pytest.mark.parametrize("agreement", [0.9, -0.9, math.nan])
def test_the_bounds_of_a_factor_hold_in_a_search_and_while_it_is_held(agreement, losses):
    exploration = explore(["one bounded lr", "temperature"], search=True)
    assert checked(exploration) == [0.5] * 4
    while exploration.search is not None:
        step(exploration, agreement, losses)
        checked(exploration)
    for cosine in (0.5, -0.5):
        for k in range(1, 40):
            exploration.hold(cosine, (10 * k, 10 * k + 10), [1.0, 1.0])
            checked(exploration)
        assert exploration.base_values()[0] == (2.0 if cosine > 0 else 0.5)


def test_a_climb_ends_at_an_upper_bound():
    exploration = explore(["one bounded lr"], search=True)
    seen = []
    while exploration.search and exploration.search.phase == "climb":
        step(exploration, 0.9)
        seen.append(exploration.base_values()[0])
    assert max(seen) == pytest.approx(2.0)
    assert checked(exploration)


# --- held


def test_a_single_rate_that_was_found_does_not_differ_between_replicas():
    alone = found(["one lr"])
    assert not alone.differ
    for _ in range(4):
        assert checked(alone) == alone.base_values() * 4
        before = list(alone.coordinates)
        assert sync(alone, [1.0, 2.0, 3.0, 4.0]).slopes.t == [0.0]
        assert alone.coordinates == before
    # What else is explored does, and the ratios of several rates do.
    both = found(["one lr", "temperature"])
    assert both.differ
    assert len(set(checked(both))) == 1
    assert len(set(both.values()[1])) == 4
    assert found(["lr"]).differ
    assert explore(["one lr"]).differ


def test_beside_a_rate_that_is_held_another_value_finds_its_optimum():
    exploration = found(["one lr", "temperature"])
    rate = exploration.coordinates[0]
    for _ in range(60):
        places = log_values(exploration, 1)
        sync(exploration, [(x - math.log(4)) ** 2 for x in places])
    assert exploration.base_values()[1] == pytest.approx(4.0, rel=0.2)
    assert exploration.coordinates[0] == rate


def test_of_several_rates_only_the_ratios_move():
    exploration = found(["lr"], replicas=8)
    mean = sum(exploration.coordinates) / 2
    for k in range(20):
        first, second = exploration.offsets()
        assert log_values(exploration) == pytest.approx(
            [exploration.coordinates[0] + OWN_WIDTH * z for z in first]
        )
        sync(
            exploration,
            [3 - 0.1 * k - 0.05 * (a - b) for a, b in zip(first, second, strict=True)],
        )
        assert sum(exploration.coordinates) / 2 == pytest.approx(mean)
    low, high = exploration.coordinates[1], exploration.coordinates[0]
    # Twenty moves of each, almost as large as they can be.
    assert high - low == pytest.approx(2 * 20 * CONFIG.track_step, rel=0.05)


@pytest.mark.parametrize("push", [better_if_larger, better_if_smaller])
def test_losses_never_move_the_scale_that_a_search_has_found(push):
    exploration = found(["lr"])
    mean = sum(exploration.coordinates) / 2
    for k in range(20):
        losses = [a + b for a, b in zip(push(exploration), push(exploration, 1), strict=True)]
        sync(exploration, [x - 0.1 * k for x in losses], share=0.7)
        assert sum(exploration.coordinates) / 2 == pytest.approx(mean)


def test_a_rollback_lowers_what_was_found_to_a_third():
    exploration = found(["lr", "temperature"])
    fall_quietly(exploration)
    before = list(exploration.coordinates)
    assert sync(exploration, [2.9] * 4).rollback
    moved = [new - old for new, old in zip(exploration.coordinates, before, strict=True)]
    assert moved == pytest.approx([-math.log(3), -math.log(3), 0.0])


def test_diverged_replicas_are_left_out_as_without_a_search():
    exploration = found(["lr"], replicas=6)
    fall_quietly(exploration)
    losses, excluded, best = diverging(exploration)
    before = exploration.coordinates[0]
    assert sync(exploration, losses, loss=2.0).excluded == excluded
    assert exploration.coordinates[0] <= before + OWN_WIDTH * best + 1e-12


def test_a_found_scale_rises_where_the_gradients_still_ask_for_what_updates_did():
    exploration = found(["lr", "temperature"])
    x, y, other = exploration.coordinates
    # By hand: 80 log(1100 / 1000) 0.02 = 0.15249629.
    exploration.hold(0.02, (1000, 1100), [1.0] * 3)
    up = 0.15249629
    assert exploration.coordinates == pytest.approx([x + up, y + up, other])
    # Nothing new is known: the last cosine goes on, 80 log(1200 / 1100) 0.02 = 0.13921820.
    exploration.hold(None, (1100, 1200), [1.0] * 3)
    up += 0.13921820
    assert exploration.coordinates == pytest.approx([x + up, y + up, other])
    # Downwards it is the same: 80 log(1300 / 1200) (-0.03) = -0.19210250.
    exploration.hold(-0.03, (1200, 1300), [1.0] * 3)
    up -= 0.19210250
    assert exploration.coordinates == pytest.approx([x + up, y + up, other])


def test_a_found_scale_stays_until_something_is_known():
    exploration = found(["one lr"])
    before = list(exploration.coordinates)
    exploration.hold(None, (100, 1000), [1.0])
    assert exploration.coordinates == before


@pytest.mark.parametrize(("cosine", "move"), [(1.0, 0.35), (-1.0, -0.35), (0.0, 0.0)])
def test_a_move_of_the_scale_is_limited(cosine, move):
    exploration = found(["one lr"])
    (x,) = exploration.coordinates
    # From step 0 it is counted from 1.
    for began in (0, 1, 10):
        exploration.coordinates[0], exploration.cosine, exploration.lifted = x, 0.0, 0.0
        exploration.hold(cosine, (began, 100), [1.0])
        assert exploration.coordinates == pytest.approx([x + move])


def test_the_scale_is_frozen_once_its_schedule_has_fallen_to_half():
    exploration = found(["lr"])
    x, y = exploration.coordinates
    exploration.hold(0.02, (1000, 1100), [0.49, 0.5])
    assert exploration.coordinates == pytest.approx([x, y + 0.15249629])


@pytest.mark.parametrize("sign", [1, -1])
def test_all_moves_of_the_scale_together_stay_within_a_factor_of_five(sign):
    exploration = found(["one lr"])
    (x,) = exploration.coordinates
    for k in range(1, 30):
        exploration.hold(sign * 1.0, (100 * k, 100 * k + 100), [1.0])
    assert exploration.coordinates == pytest.approx([x + sign * math.log(5)])
    # The way back is open, at most 0.35 at a time.
    exploration.hold(-sign * 1.0, (3000, 3100), [1.0])
    assert abs(exploration.coordinates[0] - x) < math.log(5) - 0.3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1 - 1e-9, 1 + 1e-9), min_size=1, max_size=30))
@example([1 + 1e-9])  # of a single parameter the cosine may be above 1 by a last bit
def test_a_state_amid_any_moves_of_the_scale_is_loaded(cosines):
    exploration = found(["one lr"])
    for k, cosine in enumerate(cosines, 1):
        exploration.hold(cosine, (1000 * k, 1000 * k + 1000), [1.0])
        again = explore(["one lr"])
        load(again, exploration.state_dict())
        assert again.state_dict() == exploration.state_dict()


def test_a_config_may_switch_the_moves_of_the_scale_off():
    exploration = found(["one lr"], config=SearchConfig(hold_gain=0.0))
    (x,) = exploration.coordinates
    exploration.hold(1.0, (1, 1000), [1.0])
    assert exploration.coordinates == [x]


# --- whatever happens


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.booleans(),
    st.lists(st.one_of(st.none(), st.floats(-1, 1), st.just(math.nan)), min_size=1, max_size=9),
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=6, max_size=6),
)
def test_values_stay_within_bounds_whatever_the_search_sees(replicas, trials, seen, losses):
    which = ["bounded lr", "temperature", "p"]
    exploration = explore(which, replicas, search=True, trials=trials)
    steps = 0
    while exploration.search is not None:
        step(exploration, seen[steps % len(seen)], losses[:replicas])
        checked(exploration)
        assert exploration.base_values()[2:] == pytest.approx([2.0, 0.3])
        steps += 1
    assert steps < 300
    assert exploration.coordinates[0] == exploration.coordinates[1]


# --- state


@pytest.mark.parametrize("phase", ["climb", "settle", "trial", "done"])
def test_a_saved_search_goes_on_identically(phase):
    def go_on(exploration):
        seen = []
        for k in range(200):
            if exploration.search is not None:
                step(exploration, 0.5 - 0.01 * k, [2.0, 1.0, 1.5, 3.0])
            else:
                sync(exploration, better_if_larger(exploration, loss=3 - 0.01 * k))
                exploration.hold(0.01, (10 * k, 10 * k + 10), [1.0] * 3)
            seen.append((exploration.values(), exploration.state_dict()))
        return seen

    exploration = go_to(explore(["lr", "temperature"], seed=4, search=True), phase)
    if phase != "done":
        step(exploration, 0.5)
    file = io.BytesIO()
    torch.save(exploration.state_dict(), file)
    file.seek(0)
    # Whatever is asked for here, the state decides.
    for search in (True, False):
        file.seek(0)
        again = explore(["lr", "temperature"], seed=9, search=search)
        load(again, torch.load(file, weights_only=True))
        assert again.state_dict() == exploration.state_dict()
        assert again.values() == exploration.values()
        assert again.held == (phase == "done")
        assert go_on(again) == go_on(copy.deepcopy(exploration))


def test_a_search_that_is_loaded_where_there_can_be_no_trials_has_none():
    state = go_to(explore(search=True), "settle").state_dict()
    again = explore(search=False, trials=False)
    load(again, state)
    settled = list(again.coordinates)
    go_to(again, "trial")
    assert again.search is None
    rise = math.log(CONFIG.untried_rise)
    assert again.coordinates == pytest.approx([x + rise for x in settled])


def test_a_search_that_is_loaded_by_one_replica_can_be_ended():
    state = go_to(explore(search=True), "trial").state_dict()
    alone = explore(replicas=1)
    load(alone, state)
    assert alone.values() == [[x] for x in alone.base_values()]
    alone.end_search()
    assert alone.values() == [[x] for x in alone.base_values()]


def test_a_state_of_before_there_was_this_search_loads():
    exploration = explore(["lr"])
    fall_quietly(exploration, 7)
    state = exploration.state_dict()
    expected = copy.deepcopy(state)
    del state["held"], state["search"]
    # What the old search knew is not read.
    state["rates"].update(searching=True, confidence=0.5, seen=True)
    state["rates"]["recovery"]["searching"] = True
    again = explore(["lr"], seed=3, search=True)
    load(again, state)
    assert again.state_dict() == expected
    assert again.search is None


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("search", 3, "search` = 3, which must be a dictionary"),
        ("search.steps", -1, "search.steps` = -1"),
        ("search.log_factor", math.nan, "search.log_factor` = nan"),
        ("search.smoothed", 2.0, r"search.smoothed` = 2.0, which must lie in \[-1, 1\]"),
        ("held", None, "held` = None, which must be True or False"),
    ],
)
def test_a_damaged_state_of_a_search_is_refused_and_changes_nothing(path, value, words):
    exploration = go_to(explore(search=True), "trial")
    before = exploration.state_dict()
    damaged = copy.deepcopy(before)
    *inside, key = path.split(".")
    entry = damaged
    for name in inside:
        entry = entry[name]
    entry[key] = value
    with pytest.raises(ValueError, match=words):
        load(exploration, damaged)
    assert exploration.state_dict() == before


def test_a_search_is_refused_where_no_rate_is_explored():
    state = explore(["temperature"]).state_dict()
    state["search"] = RateSearch(4, True).state_dict()
    with pytest.raises(ValueError, match="must be over: no rate is explored here"):
        load(explore(["temperature"]), state)
