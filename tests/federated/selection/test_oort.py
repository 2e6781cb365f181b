import math

import pytest
import torch

from hdet.federated.selection import ClientReport, Oort
from hdet.federated.selection.pacer import Pacer
from hdet.seeding import generator

from .population import play, report
from .test_draws import chances


def reference_scores(round, utilities, last, durations, answered, *, clip, alpha, percentile):
    """The scores of tried clients, line by line; utilities and durations None if unknown."""
    known = [u for u, a in zip(utilities, answered, strict=True) if a and u is not None]
    mean = sum(known) / len(known) if known else 0.0
    u = [x if a and x is not None else mean for x, a in zip(utilities, answered, strict=True)]
    ceiling = sorted(u)[min(int(len(u) * clip), len(u) - 1)]
    floor = 0.999 * min(u)
    times = sorted(t for t in durations if t is not None)
    preferred = (
        times[min(int(len(times) * percentile / 100), len(times) - 1)] if times else None
    )
    scores = []
    for k in range(len(u)):
        score = (min(u[k], ceiling) - floor) / (ceiling - floor) if ceiling > floor else 1.0
        score += math.sqrt(0.1 * math.log(round) / last[k])
        t = durations[k] if answered[k] else max(times, default=0.0)
        if preferred is not None and t is not None and t > preferred and alpha > 0:
            score *= (preferred / t) ** alpha
        scores.append(score)
    return scores


@pytest.mark.parametrize("case", range(30))
def test_scores_agree_with_the_slow_reference_on_random_states(case):
    draw = torch.rand(200, generator=generator(case, "oort")).tolist()
    n = 1 + int(15 * draw.pop())
    alpha, clip = (0.0, 2.0)[case % 2], (0.5, 0.95, 1.0)[case % 3]
    selector = Oort(alpha=alpha, clip=clip)
    ids = list(range(n))
    utilities: list = [None] * n
    durations: list = [None] * n
    last, answered = [0] * n, [False] * n
    for round in range(1, 5):
        subset = [c for c in ids if draw.pop() < 0.6] if round > 1 else ids
        if not subset:
            continue
        selector.select(round, subset, n)
        replies = {}
        for c in subset:
            last[c], answered[c] = round, draw.pop() < 0.8
            if answered[c]:
                loss = math.nan if draw[-1] < 0.1 else 3 * draw[-1]
                time = None if draw[-2] < 0.2 else draw[-2]
                squared = loss**2 + 0.1 if draw[-3] < 0.5 else None
                replies[c] = ClientReport(loss, 1 + c, time, squared_loss=squared)
                root = abs(loss) if squared is None else math.sqrt(squared)
                utilities[c] = None if math.isnan(loss) else (1 + c) * root
                durations[c] = time
        selector.feedback(round, replies)
    rows = selector._registry.rows(ids)
    expected = reference_scores(
        9, utilities, last, durations, answered, clip=clip, alpha=alpha, percentile=30
    )
    assert selector._score(9, rows).tolist() == pytest.approx(expected, rel=1e-12)


def known(values, **arguments):
    """Return a selector to which each client reported its loss in round 1, with 1 example."""
    selector = Oort(**arguments)
    selector.select(1, list(values), len(values))
    selector.feedback(1, {c: ClientReport(loss, 1) for c, loss in values.items()})
    return selector


def test_scores_by_hand():
    selector = known({"a": 1.0, "b": 2.0, "c": 3.0}, clip=1.0)
    scores = selector._score(4, selector._registry.rows(["a", "b", "c"]))
    bonus = math.sqrt(0.1 * math.log(4))
    expected = [0.001 / 2.001 + bonus, 1.001 / 2.001 + bonus, 1 + bonus]
    assert scores.tolist() == pytest.approx(expected)


def test_the_longer_ago_the_larger_the_bonus():
    selector = known({"a": 1.0, "b": 1.0})
    selector.select(2, ["b"], 1)
    selector.feedback(2, {"b": ClientReport(1.0, 1)})
    a, b = selector._score(10, selector._registry.rows(["a", "b"])).tolist()
    assert a - 1 == pytest.approx(math.sqrt(0.1 * math.log(10)))
    assert b - 1 == pytest.approx(math.sqrt(0.05 * math.log(10)))


def test_exploitation_draws_in_proportion_to_the_scores():
    values = {0: 1.0, 1: 2.0, 2: 4.0, 3: 5.0}
    state = known(values).state_dict()
    selector = Oort(epsilon=0, epsilon_min=0, cut_off=0, alpha=0)
    selector.load_state_dict(state)
    weights = selector._score(2, torch.arange(4)).tolist()
    chance = [0.0] * 4
    for order, p in chances(weights, 2).items():
        for k in order:
            chance[k] += p
    trials, counts = 400, [0] * 4
    for seed in range(trials):
        selector = Oort(epsilon=0, epsilon_min=0, cut_off=0, alpha=0, seed=seed)
        selector.load_state_dict(state)
        for k in selector.select(2, range(4), 2):
            counts[k] += 1
    for k in range(4):
        error = math.sqrt(trials * chance[k] * (1 - chance[k]))
        assert abs(counts[k] - trials * chance[k]) < 4 * error + 1e-9


def test_only_scores_above_the_cut_off_are_exploited():
    ids = list(range(8))
    state = known({c: 1.0 + c for c in ids}, clip=1.0).state_dict()
    seen = set()
    for seed in range(40):
        selector = Oort(epsilon=0, epsilon_min=0, cut_off=0.8, clip=1.0, seed=seed)
        selector.load_state_dict(state)
        seen |= set(selector.select(2, ids, 2))
    fresh = Oort(clip=1.0)
    fresh.load_state_dict(state)
    scores = fresh._score(2, fresh._registry.rows(ids)).tolist()
    cut = 0.8 * sorted(scores)[-2]
    assert seen == {c for c in ids if scores[c] >= cut} == {5, 6, 7}


def test_the_share_of_the_never_tried_decays_from_epsilon_to_its_minimum():
    ids = list(range(4000))
    selector = Oort(alpha=0)
    tried: set = set()
    for round in range(1, 91):
        chosen = selector.select(round, ids, 10)
        selector.feedback(round, {c: ClientReport(1.0, 1) for c in chosen})
        fresh = len(set(chosen) - tried)
        if round in (1, 2, 20, 90):
            share = max(0.9 * 0.98**round, 0.2)
            assert fresh == 10 if round == 1 else abs(fresh - 10 * share) < 1
        tried |= set(chosen)


@pytest.mark.parametrize("count", [1, 3])
def test_rounding_keeps_the_mean_share_for_few_clients(count):
    state = known(dict.fromkeys(range(20), 1.0)).state_dict()
    ids, trials, fresh = list(range(40)), 200, 0
    for seed in range(trials):
        selector = Oort(epsilon=0.25, epsilon_min=0.25, decay=1.0, alpha=0, seed=seed)
        selector.load_state_dict(state)
        fresh += sum(c >= 20 for c in selector.select(2, ids, count))
    # At most one more or less in each trial, by chance: standard error 0.5 / sqrt(200).
    assert fresh / trials == pytest.approx(0.25 * count, abs=4 * 0.5 / math.sqrt(200))


def test_someone_known_is_always_exploited_where_two_are_chosen():
    for seed in range(20):
        selector = Oort(epsilon=1, decay=1, seed=seed)
        selector.load_state_dict(known({0: 1.0}).state_dict())
        assert 0 in selector.select(2, range(10), 2)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_populations_smaller_than_the_round_work(n, count):
    selector = Oort(pacer_window=1)
    for round in range(1, 8):
        chosen = selector.select(round, range(n), count)
        assert len(chosen) == min(n, count)
        selector.feedback(round, {c: ClientReport(0.0, 1, 0.0) for c in chosen})


def test_of_the_never_tried_the_largest_come_first_but_not_only_they():
    ids = list(range(100))
    sizes = {c: 1.0 + (c >= 95) for c in ids}
    seen = set()
    for seed in range(30):
        seen |= set(Oort(sizes=sizes, seed=seed).select(1, ids, 1))
    assert seen == {95, 96, 97, 98, 99}
    alike = {Oort(seed=seed).select(1, ids, 1)[0] for seed in range(30)}
    assert len(alike) > 15


def test_a_client_that_did_not_answer_has_the_mean_utility_and_the_longest_duration():
    selector = Oort(clip=1.0, pacer_start=0)
    ids = ["a", "b", "c"]
    selector.select(1, ids, 3)
    selector.feedback(1, {"a": ClientReport(1.0, 2, 1.0), "b": ClientReport(3.0, 2, 4.0)})
    rows = selector._registry.rows(ids)
    scores = selector._score(1, rows).tolist()
    middle = (4 - 1.998) / (6 - 1.998)
    assert scores == pytest.approx([0.002 / 4.002, 1 / 16, middle / 16])


def test_those_most_often_used_are_passed_over_up_to_a_share():
    ids = list(range(10))
    selector = Oort(blacklist_rounds=3, blacklist_share=0.2, epsilon=0, epsilon_min=0)
    for round in range(1, 9):
        # 0, 1 and 2 take part 8, 7 and 6 times.
        chosen = selector.select(round, ids[: min(3, 9 - round)], 3)
        selector.feedback(round, {c: ClientReport(1.0, 1) for c in chosen})
    rows = selector._registry.rows(ids)
    assert selector._blacklisted(rows).nonzero().squeeze(1).tolist() == [0, 1]
    assert not {0, 1} & set(selector.select(9, ids, 8))
    assert selector.select(10, ids, 10) == ids
    assert selector.select(11, [0, 1], 2) == [0, 1]


def test_without_a_blacklist_nobody_is_passed_over():
    selector = Oort()
    play(selector, ["a"], 20)
    assert not bool(selector._blacklisted(selector._registry.rows(["a"])).any())


def paced(before, recent, rounds=5, window=2):
    pacer = Pacer(window, 30.0, 5.0)
    for round in range(1, window + 1):
        pacer.note(round, before)
    for round in range(window + 1, 2 * window + 1):
        pacer.note(round, recent)
    for round in range(1, rounds + 1):
        pacer.pace(round)
        pacer.pace(round)
    return pacer.percentile


def test_the_pacer_rises_when_utility_is_flat_and_falls_when_it_leaps():
    assert paced([1.0, 3.0], [2.1]) == 35
    assert paced([1.0], [1.2]) == 30
    assert paced([1.0], [7.0]) == 25
    assert paced([1.0], [1.0], rounds=4) == 30


def test_the_pacer_stays_between_its_step_and_100():
    pacer = Pacer(1, 98.0, 5.0)
    for round in range(1, 9):
        pacer.note(round, [1.0])
        pacer.pace(round)
    assert pacer.percentile == 100
    pacer = Pacer(1, 6.0, 5.0)
    for round in range(1, 9):
        pacer.note(round, [10.0**round])
        pacer.pace(round)
    assert pacer.percentile == 5


def test_the_preferred_duration_is_a_percentile_of_the_known():
    durations = torch.tensor([5.0, math.nan, 1.0, 2.0, 4.0, 3.0])
    assert Pacer(20, 30.0, 5.0).preferred(durations) == 2.0
    assert Pacer(20, 100.0, 5.0).preferred(durations) == 5.0
    assert Pacer(20, 30.0, 5.0).preferred(torch.tensor([math.nan])) == math.inf


def test_only_clients_chosen_for_their_utility_move_the_pacer():
    selector = Oort(epsilon=1.0, decay=1.0)
    chosen = selector.select(1, range(30), 4)
    selector.feedback(1, {c: report(c, 1) for c in chosen})
    assert selector.state_dict()["pacer"]["reported"] == []
    chosen = selector.select(2, range(30), 4)
    selector.feedback(2, {c: ClientReport(2.0, 10) for c in chosen})
    assert selector.state_dict()["pacer"]["reported"] == [[2, 20.0, 1]]


def test_without_system_terms_durations_do_not_matter():
    slow, fast = Oort(alpha=0), Oort(alpha=0)
    for round in range(1, 60):
        chosen = slow.select(round, range(15), 3)
        assert fast.select(round, range(15), 3) == chosen
        slow.feedback(round, {c: ClientReport(1.0 + c, 5, 100.0 * c) for c in chosen})
        fast.feedback(round, {c: ClientReport(1.0 + c, 5, 1.0) for c in chosen})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 1.1}, r"Oort\(epsilon=1.1\)` must lie in \[0, 1\]"),
        ({"decay": -0.1}, r"decay=-0.1\)` must lie in \[0, 1\]"),
        ({"epsilon_min": 2}, "epsilon_min=2"),
        ({"cut_off": math.nan}, "cut_off=nan"),
        ({"clip": 1.5}, "clip=1.5"),
        ({"alpha": -1}, r"alpha=-1\)` must be finite and at least 0: 0 turns it off"),
        ({"pacer_window": 0}, r"pacer_window=0\)` must be a whole number"),
        ({"pacer_start": 101}, r"pacer_start=101\)` must lie in \[0, 100\]"),
        ({"pacer_step": -5}, "pacer_step=-5"),
        (
            {"blacklist_rounds": 0},
            r"blacklist_rounds=0\)` must be a whole number",
        ),
        ({"blacklist_share": 3}, "blacklist_share=3"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Oort(**arguments)
