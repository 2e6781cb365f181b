import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.federated.selection import ClientReport, HeteroSelect, terms
from hdet.seeding import generator

from .test_heteroselect_v2 import cosine, min_max

WEIGHTS: dict[str, Any] = {
    "w_value": 0.9,
    "w_diversity": 0.7,
    "w_momentum": 0.5,
    "w_fairness": 0.4,
    "w_staleness": 0.6,
    "w_norm": 0.3,
}
# Only the value counts.
VALUE: dict[str, Any] = {"w_value": 1.0, **dict.fromkeys(list(WEIGHTS)[1:], 0.0)}


class Watched(HeteroSelect):
    """Keeps the score of every client, not only of those chosen."""

    def _score(self, now):
        self.all_scores = super()._score(now)
        return self.all_scores


def divergence(p, q):
    """Jensen-Shannon divergence in units of ln 2."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        middle = (a + b) / 2
        total += a * math.log(a / middle) if a else 0.0
        total += b * math.log(b / middle) if b else 0.0
    return total / 2 / math.log(2)


def stretched(values):
    known = [v for v in values if v is not None]
    if not known or max(known) - min(known) <= 1e-8:
        return [0.5] * len(values)
    scale = iter(min_max(known))
    return [0.5 if v is None else next(scale) for v in values]


class Ledger:
    """The reconstruction's server, with plain lists and loops."""

    def __init__(self, n, labels, rescale):
        self.n, self.labels, self.rescale = n, labels, rescale
        self.counts, self.last = [0] * n, [0] * n
        self.history: list[list[tuple[int, float]]] = [[] for _ in range(n)]
        self.norms, self.updates, self.histograms = {}, {}, {}
        self.mean: list[float] | None = None

    def observe(self, t, k, loss):
        if self.history[k] and self.history[k][-1][0] == t:
            self.history[k].pop()
        self.history[k].append((t, loss))

    def diversity(self):
        found: list = [None] * self.n
        if self.labels and self.histograms:
            shares = {k: [x / sum(h) for x in h] for k, h in self.histograms.items()}
            mean = [sum(c) / len(shares) for c in zip(*shares.values(), strict=True)]
            for k, p in shares.items():
                found[k] = divergence(p, mean)
        elif not self.labels and self.mean is not None:
            for k, u in self.updates.items():
                c = cosine(u, self.mean)
                found[k] = None if c is None else min(max(1 - c, 0.0), 1.0)
        return stretched(found) if self.rescale else [0.5 if d is None else d for d in found]

    def scores(self, t, form):
        known = [h[-1][1] for h in self.history if h]
        value = iter(min_max(known) if known else [])
        value = [next(value) if h else 1.0 for h in self.history]
        momentum = [
            0.5 if len(h) < 2 else 1 / (1 + math.exp(-(h[-2][1] - h[-1][1]) / 0.8))
            for h in self.history
        ]
        age = [math.log(1 + t - last) for last in self.last]
        squares: list[Any] = [self.norms.get(k) for k in range(self.n)]
        squares = [None if x is None else x * x for x in squares]
        w = list(WEIGHTS.values())
        scores = []
        if form == "additive":
            mean = sum(self.counts) / self.n or 1.0
            fair = [min(max(1 - c / mean, -1.0), 1.0) for c in self.counts]
            norm = [-x for x in stretched(squares)]
            parts = [value, self.diversity(), momentum, fair, min_max(age), norm]
            for row in zip(*parts, strict=True):
                scores.append(sum(a * b for a, b in zip(w, row, strict=True)))
            return scores
        given = [s for s in squares if s is not None]
        middle = sum(given) / len(given) if given else 0.0
        diversity = self.diversity()
        for k in range(self.n):
            s = middle if squares[k] is None else squares[k]
            factors = [
                value[k] + 1e-8,
                1 + diversity[k],
                momentum[k],
                1 / (1 + 0.3 * self.counts[k]),
                1 + 0.5 * age[k],
                1 / (1 + 0.2 * s),
            ]
            scores.append(math.prod(f**x for f, x in zip(factors, w, strict=True)))
        return scores


@pytest.mark.parametrize("form", ["additive", "multiplicative"])
@pytest.mark.parametrize("diversity", ["labels", "updates"])
@pytest.mark.parametrize("probe", ["all", "stale", 4])
def test_scores_agree_with_the_slow_reference_over_15_rounds(form, diversity, probe):
    n, rescale = 10, probe == "stale"
    selector = Watched(
        form=form,
        probe=probe,
        value="loss",
        diversity=diversity,
        rescale_diversity=rescale,
        momentum_scale=0.8,
        eta=0.3,
        gamma=0.5,
        a=0.2,
        **WEIGHTS,
    )
    ledger = Ledger(n, diversity == "labels", rescale)
    for t in range(1, 16):
        draw = torch.rand(n, 8, generator=generator(0, "v1", t), dtype=torch.float64)
        asked = selector.candidates(range(n))
        assert len(asked) == {"all": n, "stale": 0}.get(probe, 4)
        for k in asked:
            ledger.observe(t, k, float(draw[k, 0]))
        probes = {k: ClientReport(float(draw[k, 0]), 5) for k in asked}
        chosen = selector.select(t, range(n), 3, probes)
        expected = ledger.scores(t, form)
        assert selector.all_scores.tolist() == pytest.approx(expected, abs=2e-6)
        assert selector.scores == pytest.approx({k: expected[k] for k in chosen}, abs=2e-6)
        replies = {}
        for k in chosen:
            ledger.counts[k] += 1
            ledger.last[k] = t
            loss, update = float(draw[k, 1]), draw[k, 2:5] - 0.4
            counts = [int(20 * x) for x in draw[k, 5:].tolist()]
            ledger.observe(t, k, loss)
            ledger.updates[k], ledger.histograms[k] = update.tolist(), counts
            ledger.norms[k] = math.sqrt(sum(x * x for x in update.tolist()))
            replies[k] = ClientReport(loss, 5, update=update, label_counts=counts)
        rows = [ledger.updates[k] for k in chosen]
        new = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        old = ledger.mean
        ledger.mean = (
            new if old is None else [0.9 * a + 0.1 * b for a, b in zip(old, new, strict=True)]
        )
        selector.feedback(t, replies)


def test_without_probes_one_never_heard_of_has_the_highest_value():
    selector = Watched(probe="stale", **VALUE)
    assert selector.candidates("abc") == []
    selector.select(1, "ab", 2)
    selector.feedback(1, {"a": ClientReport(1.0, 1), "b": ClientReport(3.0, 1)})
    selector.select(2, "abc", 1)
    assert selector.all_scores.tolist() == pytest.approx([0, 1, 1], abs=1e-6)


def test_one_that_did_not_answer_has_the_mean_value():
    selector = Watched(probe="stale", **VALUE)
    selector.select(1, "abcd", 4)
    reports = {c: ClientReport(x, 1) for c, x in zip("abc", (1.0, 2.0, 6.0), strict=True)}
    selector.feedback(1, reports)
    selector.select(2, "abcd", 1)
    assert selector.all_scores.tolist() == pytest.approx([0, 0.2, 1, 0.4], abs=1e-6)


def test_utility_ranks_by_the_loss_times_the_examples():
    ranked = {}
    for value in ("loss", "utility"):
        selector = Watched(probe="stale", value=value, **VALUE)
        selector.select(1, "abc", 3)
        reports = {"a": (3.0, 1), "b": (2.0, 5), "c": (1.0, 2)}
        selector.feedback(1, {c: ClientReport(*r) for c, r in reports.items()})
        selector.select(2, "abc", 1)
        ranked[value] = selector.all_scores.tolist()
    assert ranked["loss"] == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert ranked["utility"] == pytest.approx([1 / 8, 1, 0], abs=1e-6)


def test_a_floor_lifts_the_lowest_scores():
    selector = Watched(probe="stale", value="loss", floor=0.3, **VALUE)
    selector.select(1, range(6), 6)
    selector.feedback(1, {k: ClientReport(float(k), 1) for k in range(6)})
    selector.select(2, range(6), 1)
    scores = selector.all_scores.tolist()
    assert scores == pytest.approx([0.3, 0.3, 0.4, 0.6, 0.8, 1.0])


def test_a_term_with_weight_zero_is_left_out():
    off: dict[str, Any] = dict.fromkeys(WEIGHTS, 0.0)
    selector = Watched(probe="stale", **off)
    product = Watched(probe="stale", form="multiplicative", **off)
    for t in (1, 2):
        for one in (selector, product):
            chosen = one.select(t, range(5), 2)
            one.feedback(t, {k: ClientReport(float(k), 1, update_norm=2.0) for k in chosen})
    assert selector.all_scores.tolist() == [0.0] * 5
    assert product.all_scores.tolist() == [1.0] * 5


def test_the_norm_is_that_of_the_update_or_what_is_reported():
    selector = HeteroSelect(probe="stale")
    selector.select(1, "abc", 3)
    reports = {
        "a": ClientReport(1.0, 1, update=torch.tensor([3.0, 4.0]), update_norm=9.0),
        "b": ClientReport(1.0, 1, update_norm=7.0),
        "c": ClientReport(1.0, 1, update_norm=math.inf),
    }
    selector.feedback(1, reports)
    assert selector._registry.norm[:2].tolist() == [5.0, 7.0]
    assert math.isnan(selector._registry.norm[2])


def test_probing_some_draws_them_anew_each_round():
    selector = HeteroSelect(probe=3)
    asked = []
    for t in range(1, 6):
        asked.append(selector.candidates(range(20)))
        assert selector.candidates(range(20)) == asked[-1]
        selector.select(t, range(20), 2, {})
    assert len({tuple(a) for a in asked}) == 5


def test_the_reconstruction_names_all_that_it_stands_for():
    selector = HeteroSelect.reconstruction(rounds=30, seed=4)
    assert selector.candidates("ab") == ["a", "b"]
    assert selector._weights == {
        "w_value": 1.0,
        "w_diversity": 0.3,
        "w_momentum": 0.2,
        "w_fairness": 0.2,
        "w_staleness": 0.2,
        "w_norm": 0.1,
    }
    named = inspect.getsource(HeteroSelect.reconstruction)
    # The product's strengths have no part in the sum.
    parameters = set(inspect.signature(HeteroSelect).parameters) - {"eta", "gamma", "a"}
    assert all(f"{p}=" in named for p in parameters)


def test_histograms_that_are_none_are_refused():
    selector = HeteroSelect(probe="stale")
    selector.select(1, "ab", 2)
    for counts in ([0, 0], [-1, 2], [math.nan, 1]):
        with pytest.raises(ValueError, match=r"feedback\(label_counts=.* must be counts of at"):
            selector.feedback(1, {"a": ClientReport(1.0, 1, label_counts=counts)})
    selector.feedback(1, {"a": ClientReport(1.0, 1, label_counts=[1, 2])})
    with pytest.raises(ValueError, match=r"label_counts=3\)` must be as long as before, 2"):
        selector.feedback(1, {"b": ClientReport(1.0, 1, label_counts=[1, 2, 3])})


def test_a_state_with_too_few_vectors_is_refused():
    selector = HeteroSelect(probe="stale")
    selector.select(1, "ab", 2)
    selector.feedback(1, {c: ClientReport(1.0, 1, label_counts=[1, 2]) for c in "ab"})
    state = selector.state_dict()
    state["memory"]["vectors"] = state["memory"]["vectors"][:1]
    with pytest.raises(ValueError, match="must name each vector once"):
        HeteroSelect(probe="stale").load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "sum"}, r"form='sum'\)` must be \"additive\" or"),
        (
            {"diversity": "loss"},
            r"diversity='loss'\)` must be \"cohort\", \"labels\" or",
        ),
        ({"value": "size"}, r"value='size'\)` must be \"utility\" or \"loss\""),
        ({"probe": "some"}, r"probe='some'\)` must be \"all\", \"stale\" or a whole number"),
        ({"probe": 0}, r"probe=0\)`"),
        ({"probe": True}, r"probe=True\)`"),
        ({"w_momentum": -1}, r"HeteroSelect\(w_momentum=-1\)` must be finite and at least 0"),
        ({"eta": -1}, "eta=-1"),
        ({"a": math.nan}, "a=nan"),
        ({"momentum_scale": 0}, r"momentum_scale=0\)` must be above 0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"rounds": 0}, "rounds=0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HeteroSelect(**arguments)


def test_label_divergence_by_hand():
    mean = torch.tensor([0.5, 0.5], dtype=torch.float64)
    apart = terms.js_divergence(torch.tensor([[4.0, 0.0], [0.0, 1.0]]).double(), mean)
    assert apart.tolist() == pytest.approx([0.311278, 0.311278], abs=1e-6)
    histograms = torch.tensor([[1.0, 2.0, 0.0], [10.0, 20.0, 0.0]]).double()
    alike = terms.js_divergence(histograms, torch.tensor([3.0, 6.0, 0.0]).double())
    assert alike.tolist() == pytest.approx([0, 0], abs=1e-12)


numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(numbers)
def test_rescaling_keeps_the_order_and_stays_within_0_and_1(values):
    scaled = terms.min_max(torch.tensor(values, dtype=torch.float64)).tolist()
    assert all(0 <= s <= 1 for s in scaled)
    if max(values) - min(values) > 1e-8:
        for a, x in zip(values, scaled, strict=True):
            for b, y in zip(values, scaled, strict=True):
                assert (a < b) <= (x <= y)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_fairness_is_within_its_clip_and_favours_the_seldom_invited(counts):
    fair = terms.fairness(torch.tensor(counts, dtype=torch.float64))
    assert bool((fair.abs() <= 1).all())
    assert int(fair.argmax()) in [i for i, c in enumerate(counts) if c == min(counts)]


def test_momentum_is_high_where_the_loss_falls_and_half_where_unknown():
    previous = torch.tensor([2.0, 1.0, math.nan], dtype=torch.float64)
    now = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    expected = [1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5)), 0.5]
    assert terms.momentum(previous, now, 2.0).tolist() == pytest.approx(expected)
