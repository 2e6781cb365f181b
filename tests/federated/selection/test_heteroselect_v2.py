import math

import pytest
import torch

from hdet.federated.selection import ClientReport, HeteroSelectV2
from hdet.seeding import generator

EPS = 1e-8


def min_max(values):
    low, high = min(values), max(values)
    if high - low <= EPS:
        return [1.0] * len(values)
    return [(v - low) / (high - low + EPS) for v in values]


def cosine(a, b):
    norms = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else None


class Watched(HeteroSelectV2):
    """Keeps the score of every client, not only of those chosen."""

    def _score(self, now):
        self.all_scores = super()._score(now)
        return self.all_scores


class Ledger:
    """The method's server, with plain lists and loops."""

    def __init__(self, n, lam=(1.0, 0.3, 0.2, 0.2), gamma=0.5):
        self.n, self.lam, self.gamma = n, lam, gamma
        self.counts, self.last = [0] * n, [0] * n
        self.updates, self.mean = {}, None

    def scores(self, t, losses):
        value = min_max(losses)
        diversity = []
        for k in range(self.n):
            c = None
            if self.mean is not None and k in self.updates:
                c = cosine(self.updates[k], self.mean)
            diversity.append(0.5 if c is None else min(max(1 - c, 0.0), 1.0))
        mean = sum(self.counts) / self.n or 1.0
        fairness = [min(max(1 - c / mean, -1.0), 1.0) for c in self.counts]
        age = [self.gamma * math.log(1 + t - last) for last in self.last]
        stale = age if max(age) - min(age) <= EPS else min_max(age)
        terms = zip(value, diversity, fairness, stale, strict=True)
        raw = [sum(w * x for w, x in zip(self.lam, row, strict=True)) for row in terms]
        return min_max(raw)

    def took_part(self, t, scores, updates):
        for k in scores:
            self.counts[k] += 1
            self.last[k] = t
        self.updates |= updates
        if not updates:
            return
        total = sum(scores[k] for k in updates)
        weight = {k: scores[k] / total if total >= EPS else 1 / len(updates) for k in updates}
        size = len(next(iter(updates.values())))
        new = [sum(weight[k] * updates[k][i] for k in updates) for i in range(size)]
        old = self.mean
        self.mean = (
            new if old is None else [0.9 * a + 0.1 * b for a, b in zip(old, new, strict=True)]
        )


@pytest.mark.parametrize("seed", range(6))
def test_scores_agree_with_the_slow_reference_over_20_rounds(seed):
    n, m = 12, 3
    selector, ledger = Watched(seed=seed, rounds=20), Ledger(n)
    for t in range(1, 21):
        draw = torch.rand(n, 6, generator=generator(seed, "v2", t), dtype=torch.float64)
        losses = draw[:, 0].tolist()
        expected = ledger.scores(t, losses)
        probes = {k: ClientReport(losses[k], 5) for k in selector.candidates(range(n))}
        chosen = selector.select(t, range(n), m, probes)
        assert selector.all_scores.tolist() == pytest.approx(expected, abs=2e-6)
        scores = {k: expected[k] for k in chosen}
        assert selector.scores == pytest.approx(scores, abs=2e-6)
        # Now and then a reply is lost, or an update is all zeros.
        came = [k for k in chosen if float(draw[k, 5]) > 0.15]
        updates = {k: (draw[k, 1:5] - 0.4) * (float(draw[k, 5]) < 0.9) for k in came}
        selector.feedback(t, {k: ClientReport(losses[k], 5, update=updates[k]) for k in came})
        ledger.took_part(t, scores, {k: u.tolist() for k, u in updates.items()})


def probes(losses):
    return {k: ClientReport(loss, 1) for k, loss in losses.items()}


def test_the_first_round_by_hand():
    selector = Watched()
    assert selector.candidates("abc") == ["a", "b", "c"]
    selector.select(1, "abc", 2, probes({"a": 1.0, "b": 2.0, "c": 4.0}))
    # D, F' and St' are alike for all: only V' is left.
    assert selector.all_scores.tolist() == pytest.approx([0, 1 / 3, 1], abs=1e-6)


def test_the_second_round_by_hand():
    selector = Watched(w_diversity=1.5)
    selector.select(1, ["a"], 1, probes({"a": 1.0}))
    selector.feedback(1, {"a": ClientReport(1.0, 1, update=torch.tensor([3.0, 4.0]))})
    selector.candidates("abc")
    selector.select(2, "abc", 1, probes({"a": 3.0, "b": 2.0, "c": 1.0}))
    # a: V' = 1, D = 1 - cos(d, d) = 0, F' = clip(1 - 1 / (1/3)) = -1, St' = 0
    # b: 1/2, 1/2, 1, 1;   c: 0, 1/2, 1, 1
    raw = [1 - 0.2, 0.5 + 0.75 + 0.2 + 0.2, 0.75 + 0.2 + 0.2]
    expected = [(x - raw[0]) / (raw[1] - raw[0]) for x in raw]
    assert selector.all_scores.tolist() == pytest.approx(expected, abs=1e-6)


def test_equal_clients_all_score_one():
    selector = Watched()
    selector.select(1, range(4), 2, probes(dict.fromkeys(range(4), 0.3)))
    assert selector.all_scores.tolist() == [1.0] * 4


def test_the_draw_is_a_softmax_with_a_falling_temperature():
    losses = probes({0: 1.0, 1: 2.0, 2: 3.0})
    trials = 200
    for t, tau in ((1, 0.95), (30, 0.5)):
        weights = [math.exp(s / tau) for s in (0.0, 0.5, 1.0)]
        counts = [0, 0, 0]
        for seed in range(trials):
            counts[HeteroSelectV2(rounds=10, seed=seed).select(t, range(3), 1, losses)[0]] += 1
        expected = [trials * w / sum(weights) for w in weights]
        square = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
        # Chi-squared with 2 degrees of freedom: 13.8 is its 99.9 % point.
        assert square < 13.8


def test_no_client_is_much_likelier_than_another():
    # What the authors' logs show: S in [0, 1] over tau >= 1/2 is at most e^2 between two.
    selector = HeteroSelectV2(rounds=200)
    for t in range(1, 201):
        selector.select(t, range(20), 4, probes({k: 1.0 + k for k in range(20)}))
    counts = selector._registry.invitations[:20]
    assert int(counts.sum()) == 800
    assert 15 < int(counts.min()) < int(counts.max()) < 80


def test_an_update_that_is_not_finite_is_passed_over():
    selector = HeteroSelectV2()
    selector.select(1, "ab", 2, probes({"a": 1.0, "b": 2.0}))
    broken = ClientReport(1.0, 1, update=torch.tensor([math.nan, 1.0]))
    fine = ClientReport(1.0, 1, update=torch.tensor([1.0, 2.0]))
    selector.feedback(1, {"a": broken, "b": fine})
    assert selector._updates.mean is not None
    assert selector._updates.mean.tolist() == [1.0, 2.0]
    assert selector._updates.diversity(torch.tensor([0, 1])).isnan().tolist() == [True, False]


def test_where_only_clients_of_score_zero_answer_they_count_alike():
    selector = HeteroSelectV2()
    selector.select(1, "ab", 2, probes({"a": 1.0, "b": 2.0}))
    assert selector.scores["a"] == 0
    selector.feedback(1, {"a": ClientReport(1.0, 1, update=torch.tensor([1.0, 2.0]))})
    assert selector._updates.mean is not None
    assert selector._updates.mean.tolist() == [1.0, 2.0]


def test_a_late_update_is_kept_and_moves_no_mean():
    selector = HeteroSelectV2()
    for t in (1, 2):
        selector.select(t, "ab", 2, probes({"a": 1.0, "b": 2.0}))
    selector.feedback(2, {"b": ClientReport(1.0, 1, update=torch.tensor([1.0, 0.0]))})
    selector.feedback(1, {"a": ClientReport(1.0, 1, update=torch.tensor([0.0, 1.0]))})
    assert selector._updates.mean is not None
    assert selector._updates.mean.tolist() == [1.0, 0.0]
    assert selector._updates.diversity(torch.tensor([0, 1])).tolist() == [1.0, 0.0]


def test_a_reply_older_than_another_leaves_the_newer_update():
    selector = HeteroSelectV2()
    for t in (1, 2):
        selector.select(t, "a", 1, probes({"a": 1.0}))
    for t, update in ((2, [1.0, 0.0]), (1, [0.0, 1.0])):
        selector.feedback(t, {"a": ClientReport(1.0, 1, update=torch.tensor(update))})
    assert selector._updates.vectors.tolist() == [[1.0, 0.0]]


def test_an_update_of_another_length_is_refused_and_nothing_is_changed():
    selector = HeteroSelectV2()
    selector.select(1, "ab", 2, probes({"a": 1.0, "b": 2.0}))
    selector.feedback(1, {"a": ClientReport(1.0, 1, update=torch.ones(3))})
    with pytest.raises(ValueError, match=r"feedback\(update=2\)` must be as long as before, 3"):
        selector.feedback(1, {"b": ClientReport(1.0, 1, update=torch.ones(2))})
    assert selector._registry.answers[:2].tolist() == [1, 0]
    with pytest.raises(ValueError, match="must hold floating-point numbers"):
        selector.feedback(1, {"b": ClientReport(1.0, 1, update=torch.ones(3).long())})
    selector.feedback(1, {"b": ClientReport(1.0, 1, update=torch.ones(3))})
    assert selector._registry.answers[:2].tolist() == [1, 1]


def test_scores_are_those_of_the_last_round_and_a_second_selection_adds_to_them():
    selector = HeteroSelectV2()
    some = probes(dict.fromkeys(range(6), 1.0))
    first = selector.select(1, range(6), 2, some)
    left = [k for k in range(6) if k not in first]
    second = selector.select(1, left, 2, some)
    assert sorted(selector.scores) == sorted(first + second)
    assert sorted(selector.scores) != sorted(selector.select(2, range(6), 2, some))
    assert len(selector.scores) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"w_value": -1},
            r"HeteroSelectV2\(w_value=-1\)` must be finite and at least 0: 0 turns",
        ),
        ({"w_diversity": math.inf}, "w_diversity=inf"),
        ({"w_fairness": math.nan}, "w_fairness=nan"),
        ({"w_staleness": -0.1}, "w_staleness=-0.1"),
        ({"temperature": 0}, r"temperature=0\)` must be finite and above 0: the lower"),
        ({"rounds": 0}, r"rounds=0\)` must be finite and at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HeteroSelectV2(**arguments)
