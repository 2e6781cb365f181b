"""What every selector keeps, tested on each."""

import io
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.federated.selection import ClientReport, HeteroSelect, Random

from .population import SELECTORS, play, report, same

every = pytest.mark.parametrize("make", SELECTORS.values(), ids=SELECTORS.keys())
IDS = list(range(20))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(SELECTORS)), st.data())
def test_chosen_are_different_available_clients_as_many_as_asked_for(name, data):
    selector = SELECTORS[name](data.draw(st.integers(0, 9)))
    for round in range(1, 7):
        available = data.draw(st.lists(st.integers(0, 15), unique=True, max_size=16))
        count = data.draw(st.integers(1, 8))
        asked = selector.candidates(available)
        assert len(set(asked)) == len(asked)
        assert set(asked) <= set(available)
        probes = {c: report(c, round) for c in asked if data.draw(st.booleans())}
        chosen = selector.select(round, available, count, probes)
        assert len(chosen) == min(count, len(available)) == len(set(chosen))
        assert chosen == [c for c in available if c in set(chosen)]
        late = data.draw(st.integers(1, round))
        selector.feedback(
            late, {c: report(c, late) for c in data.draw(st.sets(st.integers(0, 30)))}
        )
        loss = data.draw(st.sampled_from([0.0, 1.0, 1e9, -2.0, math.nan, math.inf]))
        replies = {
            c: ClientReport(loss, 1 + c, loss) for c in chosen if data.draw(st.booleans())
        }
        selector.feedback(round, replies)


@every
def test_the_same_seed_gives_the_same_choice_and_another_seed_another(make):
    assert play(make(3), IDS, 5) == play(make(3), IDS, 5)
    assert play(make(3), IDS, 5) != play(make(4), IDS, 5)


@every
def test_the_choice_goes_by_position_and_not_by_the_ids(make):
    names = [f"node-{(7919 * i) % 101}" for i in IDS]
    chosen = play(make(1), IDS, 10)
    assert play(make(1), names, 10) == [[names[c] for c in row] for row in chosen]


@every
def test_the_order_in_which_replies_come_does_not_matter(make):
    one, other = make(1), make(1)
    assert play(one, IDS, 8) == play(other, IDS, 8, backwards=True)
    assert same(one.state_dict(), other.state_dict())


@every
def test_a_run_resumed_from_a_saved_state_goes_on_as_if_never_stopped(make):
    whole = play(make(2), IDS, 10)
    stopped = make(2)
    play(stopped, IDS, 5)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = make(2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert play(resumed, IDS, 5, first=6) == whole[5:]


@every
def test_a_run_resumed_between_selection_and_feedback_takes_the_replies(make):
    one = make(2)
    probes = {c: report(c, 1) for c in one.candidates(IDS)}
    chosen = one.select(1, IDS, 4, probes)
    other = make(2)
    other.load_state_dict(one.state_dict())
    for selector in (one, other):
        selector.feedback(1, {c: report(c, 1) for c in chosen})
    assert same(one.state_dict(), other.state_dict())
    assert play(one, IDS, 5, first=2) == play(other, IDS, 5, first=2)


@every
def test_a_state_is_a_copy(make):
    selector = make(0)
    play(selector, IDS, 3)
    state = selector.state_dict()
    before = selector.state_dict()
    play(selector, IDS, 3, first=4)
    assert same(state, before)


@every
def test_the_global_generator_is_left_alone(make):
    before = torch.get_rng_state()
    play(make(0), IDS, 3)
    assert torch.equal(torch.get_rng_state(), before)


@every
def test_replies_nobody_asked_for_and_replies_twice_change_nothing(make):
    selector = make(0)
    chosen = play(selector, IDS, 4)
    state = selector.state_dict()
    selector.feedback(4, {c: report(c, 9) for c in chosen[-1]})
    selector.feedback(3, {c: report(c, 9) for c in IDS if c not in chosen[2]})
    selector.feedback(9, {c: report(c, 9) for c in IDS})
    selector.feedback(4, {"stranger": report(0, 4)})
    assert same(selector.state_dict(), state)


@every
def test_a_client_that_never_answers_is_not_invited_for_ever(make):
    selector = make(0)
    chosen = play(selector, IDS, 40, dead={19})
    # 8 invitations are its even share.
    assert sum(19 in row for row in chosen) <= 12
    assert selector._registry.answers[19] == 0


@every
def test_a_loss_that_is_not_finite_spoils_nobody_elses_score(make):
    selector = make(0)
    index_of = dict(zip(IDS, IDS, strict=True))
    broken = {3: ClientReport(math.nan, 5, math.inf, torch.full((5,), math.nan))}
    for round in range(1, 9):
        probes = {c: report(index_of[c], round) for c in selector.candidates(IDS)} | broken
        chosen = selector.select(round, IDS, 4, probes)
        replies = {c: report(index_of[c], round) for c in chosen}
        selector.feedback(round, replies | {c: broken[3] for c in chosen if c == 3})
    counts = selector._registry.invitations[:20]
    assert int(counts.sum()) == 32
    assert int(counts.max()) < 8
    assert not bool(selector._registry.loss[:20].isinf().any())
    if hasattr(selector, "scores"):
        assert all(math.isfinite(s) for s in selector.scores.values())


@every
def test_clients_that_vanish_come_back_to_their_past_and_newcomers_join(make):
    selector = make(0)
    play(selector, IDS, 6)
    past = selector._registry.invitations[:20].clone()
    probes = {c: report(c, 7) for c in selector.candidates(IDS[:8] + [77])}
    selector.select(7, [*IDS[:8], 77], 3, probes)
    assert torch.equal(selector._registry.invitations[8:20], past[8:])
    probes = {c: report(c, 8) for c in selector.candidates([*reversed(IDS), 77])}
    assert len(selector.select(8, [*reversed(IDS), 77], 8, probes)) == 8
    assert selector._registry.row_of[77] == 20
    assert int(selector._registry.invitations.sum()) == 6 * 4 + 3 + 8


@every
def test_fewer_clients_than_asked_for_are_all_chosen_and_none_gives_none(make):
    selector = make(0)
    for round, clients in ((1, ["a", "b", "c"]), (2, ["b"]), (3, [])):
        probes = {c: report(0, round) for c in selector.candidates(clients)}
        assert selector.select(round, clients, 5, probes) == clients


@every
def test_a_client_whose_probe_failed_is_chosen_only_if_the_others_do_not_suffice(make):
    selector = make(0)
    asked = selector.candidates(IDS)
    answered = asked[:5]
    chosen = selector.select(1, IDS, 5, {c: report(c, 1) for c in answered})
    assert not (set(asked) - set(answered)) & set(chosen)
    if asked:
        assert len(selector.select(2, IDS[:6], 6, {})) == 6


def test_a_late_reply_counts_and_its_numbers_are_taken_unless_newer_ones_came():
    selector = Random()
    for round in (1, 2, 3):
        selector.select(round, ["a"], 1)
    selector.feedback(2, {"a": ClientReport(2.0, 20)})
    selector.feedback(1, {"a": ClientReport(1.0, 10)})
    known = selector._registry
    assert (known.answers[0], known.last_answered[0], known.loss[0]) == (2, 2, 2.0)
    selector.feedback(3, {"a": ClientReport(3.0, 30)})
    assert (known.answers[0], known.last_answered[0], known.loss[0]) == (3, 3, 3.0)
    assert (known.previous_loss[0], known.examples[0], known.invitations[0]) == (2.0, 30, 3)


def test_selecting_twice_in_a_round_counts_one_invitation_and_one_reply():
    selector = Random()
    for _ in range(2):
        selector.select(1, ["a"], 1)
        selector.feedback(1, {"a": ClientReport(2.0, 20)})
    assert (selector._registry.invitations[0], selector._registry.answers[0]) == (1, 1)


def test_invitations_of_long_ago_are_forgotten():
    selector = Random()
    selector.select(1, ["a", "b"], 1)
    for round in range(2, 130):
        selector.select(round, ["a", "b"], 1)
    assert len(selector.state_dict()["open"]) == 100
    selector.feedback(1, {c: ClientReport(1.0, 1) for c in "ab"})
    assert int(selector._registry.answers.sum()) == 0


def test_a_probe_and_a_reply_of_one_round_are_one_step_of_the_loss():
    selector = HeteroSelect(probe="all")
    for round, probe, reply in ((1, 5.0, 4.0), (2, 3.0, 2.0)):
        selector.candidates(["a"])
        selector.select(round, ["a"], 1, {"a": ClientReport(probe, 1)})
        selector.feedback(round, {"a": ClientReport(reply, 1)})
    assert (selector._registry.previous_loss[0], selector._registry.loss[0]) == (4.0, 2.0)


@every
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, ["a"], 1, {}), r"select\(round=0\)` must be a whole number of at least 1"),
        ((1, ["a"], 0, {}), r"select\(count=0\)` must be .* choose at least one client"),
        ((1, ["a"], 1.5, {}), r"select\(count=1.5\)`"),
        ((1, ["a", "b", "a"], 1, {}), r"select\(clients='a'\)` is in clients more than once"),
    ],
)
def test_bad_arguments_of_select_are_refused_and_change_nothing(make, arguments, message):
    selector = make(0)
    state = selector.state_dict()
    with pytest.raises(ValueError, match=message):
        selector.select(*arguments)
    assert same(selector.state_dict(), state)


@every
def test_a_round_below_one_is_refused_by_feedback(make):
    with pytest.raises(ValueError, match=r"feedback\(round=0\)` .*rounds count from 1"):
        make(0).feedback(0, {})


@pytest.mark.parametrize("name", ["pow-d", "cpow-d", "heteroselect of 6", "heteroselect v2"])
def test_a_method_that_needs_probes_says_so(name):
    with pytest.raises(ValueError, match=r"probes=None\)` must hold the answers of candidates"):
        SELECTORS[name]().select(1, IDS, 3)


@every
def test_a_state_of_another_selector_or_a_damaged_one_is_refused_whole(make):
    selector, other = make(0), make(0)
    play(selector, IDS, 3)
    state = selector.state_dict()
    fresh = other.state_dict()
    rows = {**state["registry"], "loss": torch.zeros(3, dtype=torch.float64)}
    for damage, message in (
        ({"selector": "Lottery"}, "`selector` = 'Lottery'.* must be"),
        ({"registry": rows}, r"`registry.loss` = .* must be of shape \(20,\)"),
        ({"registry": {**state["registry"], "ids": [1] * 20}}, "must hold each client once"),
        ({"open": torch.tensor([[1, 20]])}, "`open` = .* names a row or a round that does not"),
        ({"open": torch.tensor([[9, 2]])}, "`open` = .* names a row or a round that does not"),
        ({"asked": torch.tensor([-1])}, "`asked` = .* names a row that does not exist"),
        ({"round": 1}, "`registry.last_invited` = .* no round after the last"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict({**state, **damage})
        assert same(other.state_dict(), fresh)
    with pytest.raises(ValueError, match="without `asked`"):
        other.load_state_dict({k: v for k, v in state.items() if k != "asked"})


def test_an_id_that_cannot_be_saved_is_named():
    selector = Random()
    selector.select(1, [("a", 1)], 1)
    with pytest.raises(ValueError, match=r"state_dict\(client=\('a', 1\)\)` must be an int"):
        selector.state_dict()


def test_a_seed_that_is_no_integer_is_refused():
    with pytest.raises(ValueError, match=r"Random\(seed='x'\)` must be an integer"):
        Random("x")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("examples", [0, -1, math.nan, math.inf])
def test_a_report_without_examples_is_refused(examples):
    with pytest.raises(ValueError, match=r"num_examples=.*\)` must be a finite number above 0"):
        ClientReport(1.0, examples)


def test_random_is_uniform():
    selector = Random(5)
    counts = torch.zeros(10)
    for round in range(1, 1001):
        counts[torch.tensor(selector.select(round, range(10), 3))] += 1
    # Each is chosen with probability 0.3: standard deviation sqrt(1000 * 0.3 * 0.7) = 14.5.
    assert float((counts - 300).abs().max()) < 4 * 14.5


def test_a_million_clients_take_no_step_of_python_each():
    selector = HeteroSelect(probe="stale")
    clients = range(1_000_000)
    chosen = selector.select(1, clients, 100)
    selector.feedback(1, {c: ClientReport(1.0 + c % 7, 10) for c in chosen})
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(event))
    try:
        second = selector.select(2, clients, 100)
    finally:
        sys.setprofile(None)
    assert len(set(second)) == 100
    assert len(calls) < 20_000
