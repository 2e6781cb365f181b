"""The search while the world changes: which returns there are, and what is left of the rate."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.returns import EXPLOSION, MOST
from hdet.seeding import generator
from tests.replica.explorer.test_exploration import explore, log_values

OPTIMUM = 0.5  # of the log factor
SYNCS = 60


def descent(exploration, k, scale=1.0):
    """Return training and probe losses that fall, with noise, least at the optimal rate."""
    g = generator(0, "descent", k)
    level = 1 + 2 * math.exp(-k / 15)
    rates = [0.05 * (x - OPTIMUM) ** 2 for x in log_values(exploration)]
    own = (0.02 * torch.randn(exploration.replicas, generator=g)).tolist()
    common = (0.002 * torch.randn(exploration.replicas, generator=g)).tolist()
    training = [scale * (level + r + e) for r, e in zip(rates, own, strict=True)]
    probes = [scale * (level + r + e) for r, e in zip(rates, common, strict=True)]
    return training, probes


def train(exploration, events, syncs=range(SYNCS), scale=1.0, paired=True):
    """Run; `events[k]` changes the losses of sync k. Return the log rates and the moves."""
    places, moves = [], []
    for k in syncs:
        training, probes = descent(exploration, k, scale)
        for event in events.get(k, []):
            training, probes = event(training, probes)
        reading = exploration.read(probes if paired else training)
        moves.append(exploration.update(reading, training, [1.0]))
        places.append(exploration.places[0])
    return places, moves


def all_of(change):
    """Return an event that changes every replica's losses, the probe's too."""
    return lambda training, probes: ([change(x) for x in training], [change(x) for x in probes])


def one_of(rank, value):
    """Return an event that replaces one replica's training loss."""
    return lambda training, probes: (
        [value if r == rank else x for r, x in enumerate(training)],
        probes,
    )


def returns(moves):
    return [k for k, move in enumerate(moves) if move.exploded]


def longest_row(moves):
    row = longest = 0
    for move in moves:
        row = row + 1 if move.exploded else 0
        longest = max(longest, row)
    return longest


CHANGES = {
    "+10": lambda x: x + 10,
    "harder": lambda x: 2 * x + 3,
    "times 100": lambda x: 100 * x,
    "times a million": lambda x: 1e6 * x,
    "-3": lambda x: x - 3,
}


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("at", [3, 8, 30])
@pytest.mark.parametrize("name", CHANGES)
def test_a_lasting_change_costs_a_return_or_two_and_no_rate(name, at, paired):
    plain, _ = train(explore(["one lr"], paired=paired), {}, paired=paired)
    events = {k: [all_of(CHANGES[name])] for k in range(at, SYNCS)}
    exploration = explore(["one lr"], paired=paired)
    places, moves = train(exploration, events, paired=paired)
    assert len(returns(moves)) <= 1 + (at == 3)
    assert sum(move.accepted for move in moves) <= len(returns(moves))
    assert not exploration.rates.climbing
    assert places[-1] == pytest.approx(plain[-1], abs=0.35)


@pytest.mark.parametrize("value", [1e6, 1e30, -100.0, math.nan, math.inf])
@pytest.mark.parametrize("at", [2, 8, 30])
def test_what_happens_to_all_once_costs_at_most_one_return_and_no_rate(value, at):
    plain, _ = train(explore(["one lr"]), {})
    places, moves = train(explore(["one lr"]), {at: [all_of(lambda _: value)]})
    assert len(returns(moves)) <= 1
    assert places[-1] == pytest.approx(plain[-1], abs=0.35)


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 0.0), (1e12, 0.0), (1.0, -5.0)])
def test_losses_of_any_sign_and_scale_make_the_same_moves(scale, shift):
    plain, _ = train(explore(["one lr"]), {})
    events = {k: [all_of(lambda x: x + shift)] for k in range(SYNCS)}
    places, moves = train(explore(["one lr"]), events, scale=scale)
    assert returns(moves) == []
    assert places == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("at", [3, 8, 30])
def test_a_loss_that_becomes_zero_for_good_ends_nothing(at):
    exploration = explore(["one lr"])
    places, moves = train(exploration, {k: [all_of(lambda _: 0.0)] for k in range(at, SYNCS)})
    assert returns(moves) == []
    assert places[-1] >= places[at - 1]


def test_constant_losses_change_nothing_while_holding():
    exploration = explore(["one lr"], search=False)
    for _ in range(20):
        assert not exploration.update(exploration.read([0.0] * 4), [0.0] * 4, [1.0]).exploded
    assert exploration.places == [0.0]


@pytest.mark.parametrize("replicas", [2, 3, 4])
@pytest.mark.parametrize("value", [-100.0, 1e6, 1e30, math.nan, math.inf])
def test_one_replicas_outlier_beside_a_probe_moves_nothing(value, replicas):
    plain, _ = train(explore(["one lr"], replicas), {})
    for at in (5, 9, 30):
        for rank in range(replicas):
            places, moves = train(explore(["one lr"], replicas), {at: [one_of(rank, value)]})
            assert returns(moves) == []
            assert places == plain


@pytest.mark.parametrize("value", [-100.0, 1e6, 1e30, math.nan, math.inf])
def test_one_replicas_outlier_without_a_probe_costs_one_move(value):
    def run(events):
        exploration = explore(["one lr"], search=False, paired=False)
        return train(exploration, events, paired=False)

    plain, _ = run({})
    for at in (0, 1, 30):
        places, moves = run({at: [one_of(1, value)]})
        assert returns(moves) == []
        assert places[-1] == pytest.approx(plain[-1], abs=math.log(1.3) + 0.1)


def test_lost_weights_are_returned_from_as_ever():
    exploration = explore(["one lr"])
    places, moves = train(exploration, {30: [all_of(lambda x: x + 1.5)]})
    assert returns(moves) == [30]
    assert places[30] == pytest.approx(places[29] - EXPLOSION)
    assert "loss spike (1.37 above the best smoothed loss 1.4, gain 2.24)" in moves[30].note
    # Well within what a rate that is too high does: it does not get it back.
    assert not any(move.restored for move in moves)


def test_after_three_returns_in_a_row_any_loss_is_the_new_level():
    exploration = explore(["one lr"])
    events = {k: [all_of(lambda x, k=k: x + 10.0 ** (k - 29))] for k in range(30, SYNCS)}
    _, moves = train(exploration, events, range(34))
    assert returns(moves) == [30, 31, 32]
    assert "on trial" in moves[33].note


def test_a_rate_that_explodes_when_it_is_tried_again_stays_low():
    exploration = explore(["one lr"])
    spikes = {k: [all_of(lambda x: 1e6)] for k in (30, 35)}
    places, moves = train(exploration, spikes)
    assert returns(moves) == [30, 35]
    assert [k for k, move in enumerate(moves) if move.restored] == [33]
    assert places[40] == pytest.approx(places[34] - EXPLOSION, abs=0.5)


def test_an_interrupted_climb_goes_on_where_the_level_is_accepted():
    exploration = explore(["one lr"])
    events = {k: [all_of(lambda x: x + 10)] for k in range(5, SYNCS)}
    _, moves = train(exploration, events, range(12))
    (stopped,) = (k for k, move in enumerate(moves) if move.stopped)
    (restored,) = (k for k, move in enumerate(moves) if move.restored)
    assert stopped < restored
    assert exploration.rates.climbing


def test_each_accepted_level_doubles_what_has_to_be_lost():
    exploration = explore(["one lr"])
    ramp = {k: [all_of(lambda x, k=k: x + 0.3 * (k - 20))] for k in range(20, 200)}
    _, moves = train(exploration, ramp, range(200))
    found = returns(moves)
    assert exploration.rates.returns.patience == 2.0 ** len(found)
    gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert len(found) <= 6
    assert gaps[-1] > 2 * gaps[0]


# --- random sequences

KINDS = st.one_of(
    st.sampled_from(sorted(CHANGES)).map(lambda name: ("lasting", CHANGES[name])),
    st.floats(-10, 10).map(lambda c: ("brief", lambda x: x + c)),
    st.sampled_from([-100.0, 1e6, 1e30, math.nan, math.inf]).map(lambda v: ("once", v)),
    st.tuples(st.integers(0, 3), st.sampled_from([-100.0, 1e6, 1e30, math.nan, math.inf])).map(
        lambda pair: ("one", pair)
    ),
)
SEQUENCES = st.lists(st.tuples(st.integers(0, 39), KINDS), max_size=12)


EVENTFUL, ALL = 40, 90  # syncs in which events begin, and all


def laid_out(sequence):
    """Return `events` of a drawn sequence; all but lasting changes are over at sync 43."""
    events = {}
    for at, (kind, what) in sequence:
        last = {"lasting": ALL, "brief": at + 3}.get(kind, at + 1)
        if kind == "one":
            event = one_of(*what)
        else:
            event = all_of((lambda _, v=what: v) if kind == "once" else what)
        for k in range(at, last):
            events.setdefault(k, []).append(event)
    return events


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEQUENCES, st.booleans(), st.sampled_from([2, 4]))
def test_no_sequence_of_events_makes_the_rate_run_away(sequence, paired, replicas):
    exploration, events = explore(["one lr"], replicas, paired=paired), laid_out(sequence)
    low, high = exploration.dimensions[0].bounds
    tried = exploration.places[0]
    for k in range(EVENTFUL + 20):
        before = exploration.places[0]
        tried = max(tried, *log_values(exploration))
        _, (move,) = train(exploration, events, range(k, k + 1), paired=paired)
        place, returned = exploration.places[0], exploration.rates.returns
        # Never beyond what a replica has tried, nor below three falls of one that was blamed.
        assert math.log(low) <= place <= min(tried, math.log(high)) + 1e-9
        if move.exploded and returned.blamed is not None:
            assert 0 <= before - place <= EXPLOSION + 1e-9
            assert place >= min(returned.blamed - (MOST + 0.5) * EXPLOSION, before) - 1e-9
        assert returned.row <= MOST
    state = exploration.state_dict()
    exploration.load_state_dict(state)
    assert exploration.state_dict() == state


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEQUENCES, st.booleans())
def test_once_the_events_are_over_the_search_goes_on(sequence, paired):
    exploration, events = explore(["one lr"], paired=paired), laid_out(sequence)
    _, moves = train(exploration, events, range(EVENTFUL + 15), paired=paired)
    assert longest_row(moves) <= MOST
    start = exploration.places[0]
    places, moves = train(exploration, events, range(EVENTFUL + 15, ALL), paired=paired)
    assert returns(moves) == []
    assert max(abs(place - start) for place in places) > 0.01
