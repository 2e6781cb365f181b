"""The rates while the world changes: which rollbacks there are, and what that costs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.explorer.config import SearchConfig
from hdet.seeding import generator
from tests.replica.explorer.test_exploration import decide, explore, load, log_values

FALL, MOST = SearchConfig().rollback_fall, SearchConfig().max_rollbacks
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
    """Run; `events[k]` changes the losses of sync k. Return log rates and decisions."""
    log_rates, decisions = [], []
    for k in syncs:
        training, probes = descent(exploration, k, scale)
        for event in events.get(k, []):
            training, probes = event(training, probes)
        decisions.append(decide(exploration, training, probes if paired else training))
        log_rates.append(exploration.coordinates[0])
    return log_rates, decisions


def all_of(change):
    """Return an event that changes every replica's losses, the probe's too."""
    return lambda training, probes: ([change(x) for x in training], [change(x) for x in probes])


def one_of(rank, value):
    """Return an event that replaces one replica's training loss."""
    return lambda training, probes: (
        [value if r == rank else x for r, x in enumerate(training)],
        probes,
    )


def rollbacks(decisions):
    return [k for k, decision in enumerate(decisions) if decision.rollback]


def longest_row(decisions):
    row = longest = 0
    for decision in decisions:
        row = row + 1 if decision.rollback else 0
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
def test_a_lasting_change_costs_a_rollback_or_two_and_no_rate(name, at, paired):
    plain, _ = train(explore(["one lr"], paired=paired), {}, paired=paired)
    events = {k: [all_of(CHANGES[name])] for k in range(at, SYNCS)}
    exploration = explore(["one lr"], paired=paired)
    log_rates, decisions = train(exploration, events, paired=paired)
    assert len(rollbacks(decisions)) <= 1 + (at == 3)
    assert sum(decision.new_level for decision in decisions) <= len(rollbacks(decisions))
    assert log_rates[-1] == pytest.approx(plain[-1], abs=0.35)


@pytest.mark.parametrize("value", [1e6, 1e30, -100.0, math.nan, math.inf])
@pytest.mark.parametrize("at", [2, 8, 30])
def test_what_happens_to_all_once_costs_at_most_one_rollback_and_no_rate(value, at):
    plain, _ = train(explore(["one lr"]), {})
    log_rates, decisions = train(explore(["one lr"]), {at: [all_of(lambda _: value)]})
    assert len(rollbacks(decisions)) <= 1
    assert log_rates[-1] == pytest.approx(plain[-1], abs=0.35)


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 0.0), (1e12, 0.0), (1.0, -5.0)])
def test_losses_of_any_sign_and_scale_make_the_same_decisions(scale, shift):
    plain, _ = train(explore(["one lr"]), {})
    events = {k: [all_of(lambda x: x + shift)] for k in range(SYNCS)}
    log_rates, decisions = train(explore(["one lr"]), events, scale=scale)
    assert rollbacks(decisions) == []
    assert log_rates == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("at", [3, 8, 30])
def test_a_loss_that_becomes_zero_for_good_ends_nothing(at):
    exploration = explore(["one lr"])
    log_rates, decisions = train(
        exploration, {k: [all_of(lambda _: 0.0)] for k in range(at, SYNCS)}
    )
    assert rollbacks(decisions) == []
    assert log_rates[-1] >= log_rates[at - 1]


def test_constant_losses_change_nothing():
    exploration = explore(["one lr"])
    for _ in range(20):
        assert not decide(exploration, [0.0] * 4, [0.0] * 4).rollback
    assert exploration.coordinates == [0.0]


@pytest.mark.parametrize("replicas", [2, 3, 4])
@pytest.mark.parametrize("value", [-100.0, 1e6, 1e30, math.nan, math.inf])
def test_one_replicas_outlier_beside_a_probe_decides_nothing(value, replicas):
    plain, _ = train(explore(["one lr"], replicas), {})
    for at in (5, 9, 30):
        for rank in range(replicas):
            log_rates, decisions = train(
                explore(["one lr"], replicas), {at: [one_of(rank, value)]}
            )
            assert rollbacks(decisions) == []
            assert log_rates == plain


@pytest.mark.parametrize("value", [-100.0, 1e6, 1e30, math.nan, math.inf])
def test_one_replicas_outlier_without_a_probe_costs_one_move(value):
    def run(events):
        exploration = explore(["one lr"], paired=False)
        return train(exploration, events, paired=False)

    plain, _ = run({})
    for at in (0, 1, 30):
        log_rates, decisions = run({at: [one_of(1, value)]})
        assert rollbacks(decisions) == []
        assert log_rates[-1] == pytest.approx(plain[-1], abs=math.log(1.3) + 0.1)


def test_lost_weights_are_rolled_back_as_ever():
    exploration = explore(["one lr"])
    log_rates, decisions = train(exploration, {30: [all_of(lambda x: x + 1.5)]})
    assert rollbacks(decisions) == [30]
    assert log_rates[30] == pytest.approx(log_rates[29] - FALL)
    assert (
        "loss spike (1.38 above the best smoothed loss 1.4, improvement 1.63)"
        in decisions[30].note
    )
    # Well within what a rate that is too high does: it does not get it back.
    assert not any("tried again" in decision.note for decision in decisions)


def test_after_three_rollbacks_in_a_row_any_loss_is_the_new_level():
    exploration = explore(["one lr"])
    events = {k: [all_of(lambda x, k=k: x + 10.0 ** (k - 29))] for k in range(30, SYNCS)}
    _, decisions = train(exploration, events, range(34))
    assert rollbacks(decisions) == [30, 31, 32]
    assert "on trial" in decisions[33].note


def test_a_rate_that_spikes_when_it_is_tried_again_stays_low():
    exploration = explore(["one lr"])
    spikes = {k: [all_of(lambda x: 1e6)] for k in (30, 35)}
    log_rates, decisions = train(exploration, spikes)
    assert rollbacks(decisions) == [30, 35]
    assert [k for k, d in enumerate(decisions) if "tried again" in d.note] == [33]
    assert log_rates[40] == pytest.approx(log_rates[34] - FALL, abs=0.5)


@pytest.mark.parametrize("name", CHANGES)
def test_a_rate_that_a_search_has_found_is_held_but_for_what_a_rollback_takes(name):
    exploration = explore(["one lr"], search=True)
    exploration.end_search()
    found = exploration.coordinates[0]
    events = {k: [all_of(CHANGES[name])] for k in range(30, SYNCS)}
    log_rates, decisions = train(exploration, events)
    back = rollbacks(decisions)
    assert len(back) <= 1
    taken = [k for k, x in enumerate(log_rates) if x != pytest.approx(found)]
    assert [log_rates[k] for k in taken] == pytest.approx([found - FALL] * len(taken))
    assert taken == list(range(30, 30 + len(taken))) if back else not taken
    assert log_rates[-1] == pytest.approx(found)


def test_each_accepted_level_doubles_what_has_to_be_lost():
    exploration = explore(["one lr"])
    ramp = {k: [all_of(lambda x, k=k: x + 0.3 * (k - 20))] for k in range(20, 200)}
    _, decisions = train(exploration, ramp, range(200))
    found = rollbacks(decisions)
    assert exploration.guard.recovery.patience == 2.0 ** len(found)
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
    tried = exploration.coordinates[0]
    for k in range(EVENTFUL + 20):
        before = exploration.coordinates[0]
        tried = max(tried, *log_values(exploration))
        _, (decision,) = train(exploration, events, range(k, k + 1), paired=paired)
        after, recovery = exploration.coordinates[0], exploration.guard.recovery
        # Never beyond what a replica has tried, nor below three falls of one that was blamed.
        assert math.log(low) <= after <= min(tried, math.log(high)) + 1e-9
        if decision.rollback and recovery.blamed is not None:
            assert 0 <= before - after <= FALL + 1e-9
            assert after >= min(recovery.blamed - (MOST + 0.5) * FALL, before) - 1e-9
        assert recovery.row <= MOST
    state = exploration.state_dict()
    load(exploration, state)
    assert exploration.state_dict() == state


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEQUENCES, st.booleans())
def test_once_the_events_are_over_the_rate_moves_on(sequence, paired):
    exploration, events = explore(["one lr"], paired=paired), laid_out(sequence)
    _, decisions = train(exploration, events, range(EVENTFUL + 15), paired=paired)
    assert longest_row(decisions) <= MOST
    start = exploration.coordinates[0]
    log_rates, decisions = train(exploration, events, range(EVENTFUL + 15, ALL), paired=paired)
    # The last level may not have been accepted yet.
    assert len(rollbacks(decisions)) <= 1
    assert max(abs(x - start) for x in log_rates) > 0.01
