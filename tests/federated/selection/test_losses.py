"""Losses of any sign and size, in every selector."""

import math
from dataclasses import replace
from typing import TypeVar

import pytest
import torch

from hdet.federated.selection import (
    ClientReport,
    HeteroSelect,
    HeteroSelectV2,
    Oort,
    PowerOfChoice,
    Selector,
)

from .population import SELECTORS, report

IDS = list(range(6))
# The first client's losses are the lowest, the last's the highest.
LOSSES = [-9.0, -5.0, -4.0, -2.0, -1.0, -0.5]
every = pytest.mark.parametrize("make", SELECTORS.values(), ids=SELECTORS.keys())


Method = TypeVar("Method", bound=Selector)


def told(selector: Method, losses: list[float], examples: list[float]) -> Method:
    """Return a selector to which every client reported in round 1."""
    clients = list(range(len(losses)))
    reports = {
        c: ClientReport(loss, n, duration=1.0, label_counts=[1, 1])
        for c, (loss, n) in enumerate(zip(losses, examples, strict=True))
    }
    selector.candidates(clients)
    selector.select(1, clients, len(clients), reports)
    selector.feedback(1, reports)
    return selector


def utilities(selector: Oort, count: int) -> list[float]:
    return selector._utilities(torch.arange(count)).tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda: PowerOfChoice(6),
        lambda: PowerOfChoice(6, "rpow-d"),
        lambda: Oort(alpha=0.0, epsilon=0.0, epsilon_min=0.0, clip=1.0),
        lambda: HeteroSelect(temperature=0.001, w_staleness=0.0),
        lambda: HeteroSelect(value="loss", temperature=0.001, w_staleness=0.0),
        lambda: HeteroSelect(form="multiplicative", temperature=0.001, w_staleness=0.0),
        lambda: HeteroSelectV2(temperature=0.001, w_fairness=0.0, w_staleness=0.0),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 5.0, 100.0])
def test_whatever_the_losses_are_counted_from_the_highest_are_chosen(make, shift):
    losses = [loss + shift for loss in LOSSES]
    selector = told(make(), losses, [10.0] * 6)
    probes = {c: ClientReport(losses[c], 10) for c in selector.candidates(IDS)}
    assert selector.select(2, IDS, 1, probes) == [5]


def test_oorts_utility_of_losses_below_zero_counts_from_the_lowest():
    selector = told(Oort(), [-4.0, -2.0, 1.0], [10.0, 20.0, 30.0])
    assert utilities(selector, 3) == pytest.approx([0.0, 20 * 2.0, 30 * 5.0])


def test_oorts_exact_utility_is_shifted_with_its_variance():
    selector = Oort()
    selector.select(1, [0, 1], 2)
    # Losses -3 and -1 of single examples: mean -2, mean square 5; from -4 they are 1 and 3.
    selector.feedback(
        1, {0: ClientReport(-4.0, 1), 1: ClientReport(-2.0, 10, squared_loss=5.0)}
    )
    assert utilities(selector, 2) == pytest.approx([0.0, 10 * math.sqrt((1 + 9) / 2)])


def test_losses_of_at_least_zero_are_counted_from_zero_to_the_last_bit():
    selector = told(Oort(), [0.3, 0.7], [10.0, 20.0])
    assert selector.loss_floor() == 0.0
    assert utilities(selector, 2) == [10 * math.sqrt(0.3**2), 20 * math.sqrt(0.7**2)]


def test_the_pacer_hears_of_utilities_counted_alike():
    selector = Oort(epsilon=0.0, epsilon_min=0.0)
    told(selector, [-4.0, -2.0], [10.0, 20.0])
    chosen = selector.select(2, [0, 1], 2)
    selector.feedback(2, {c: ClientReport(-6.0 + 3 * c, 10, duration=1.0) for c in chosen})
    # The lowest of this round itself is -6: utilities 0 and 30.
    assert selector.state_dict()["pacer"]["reported"] == [[2, 30.0, 2]]


def test_many_examples_do_not_make_a_low_loss_a_high_one():
    scores = told(HeteroSelect(), [-1.0, -3.0, -2.0], [10.0, 80.0, 40.0])
    scores.select(2, range(3), 3)
    value = {c: s - 0.1 for c, s in scores.scores.items()}
    # (L + 3) n = 20, 0, 40.
    assert value == pytest.approx({0: 0.5, 1: 0.0, 2: 1.0}, abs=1e-6)


def extreme(selector: Selector, loss: float) -> list[list[int]]:
    """Return what is chosen where client 3's numbers are all one extreme."""
    update, chosen = torch.full((5,), loss, dtype=torch.float64), []
    broken = ClientReport(loss, 13, duration=loss, update=update, squared_loss=loss)
    for round in range(1, 7):
        reports = {c: report(c, round) for c in IDS}
        reports[3] = replace(broken, label_counts=reports[3].label_counts)
        asked = selector.candidates(IDS)
        chosen.append(selector.select(round, IDS, 3, {c: reports[c] for c in asked}))
        selector.feedback(round, {c: reports[c] for c in chosen[-1]})
    return chosen


@every
@pytest.mark.parametrize("loss", [math.inf, -math.inf, 1e300, -1e300])
def test_what_is_beyond_any_loss_is_unknown_as_nan_is(make, loss):
    known, unknown = make(1), make(1)
    assert extreme(known, loss) == extreme(unknown, math.nan)
    for column in ("loss", "squared_loss", "duration", "norm"):
        assert bool(getattr(known._registry, column)[3].isnan()), column


@every
def test_the_largest_losses_that_are_believed_break_nothing(make):
    for loss in (1e30, -1e30, 5e-324, -0.0):
        selector = make(0)
        for chosen in extreme(selector, loss):
            assert len(set(chosen)) == 3
        state = selector.state_dict()
        make(0).load_state_dict(state)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"loss": "low"}, r"ClientReport\(loss='low'\)` must be a number"),
        ({"loss": [1.0]}, r"ClientReport\(loss=\[1.0\]\)` must be a number"),
        ({"loss": 1j}, r"ClientReport\(loss=1j\)` must be a number"),
        ({"loss": torch.ones(2)}, r"ClientReport\(loss=.*\)` must be a number"),
        ({"duration": "1 s"}, r"ClientReport\(duration='1 s'\)` must be a number"),
        ({"squared_loss": 10**400}, r"ClientReport\(squared_loss=1.*\)` must be a number"),
        ({"num_examples": "ten"}, r"ClientReport\(num_examples='ten'\)` must be a number"),
        ({"num_examples": None}, r"ClientReport\(num_examples=None\)` must be a finite"),
        ({"num_examples": 1e300}, r"num_examples=1e\+300\)` must be .* at most 2\^53"),
    ],
)
def test_what_is_no_number_is_refused_where_it_is_reported(statistics, message):
    with pytest.raises(ValueError, match=message):
        ClientReport(**({"loss": 1.0, "num_examples": 10} | statistics))


def test_scalar_tensors_and_arrays_are_numbers():
    found = ClientReport(torch.tensor(2.0), 10, update_norm=torch.ones(()).numpy())  # pyright: ignore[reportArgumentType]
    selector = told(PowerOfChoice(2, "rpow-d"), [1.0], [10.0])
    selector.select(2, [0], 1)
    selector.feedback(2, {0: found})
    assert (float(selector._registry.loss[0]), float(selector._registry.norm[0])) == (2.0, 1.0)


def test_durations_and_norms_below_zero_are_unknown():
    selector = told(Oort(), [1.0], [10.0])
    selector.select(2, [0], 1)
    selector.feedback(
        2, {0: ClientReport(1.0, 10, duration=-1.0, update_norm=-2.0, squared_loss=-3.0)}
    )
    columns = ("duration", "norm", "squared_loss")
    assert all(math.isnan(float(getattr(selector._registry, c)[0])) for c in columns)


@every
@pytest.mark.parametrize("update", ["weights", [1, 2, 3, 4, 5], [1j] * 5])
def test_an_update_that_is_no_vector_of_floats_is_refused_and_changes_nothing(make, update):
    selector = make(0)
    probes = {c: report(c, 1) for c in selector.candidates(IDS)}
    selector.select(1, IDS, 6, probes)
    before = repr(selector.state_dict())
    reports = {c: report(c, 1) for c in IDS} | {4: replace(report(4, 1), update=update)}
    with pytest.raises(ValueError, match=r"feedback\(update=.*floating-point"):
        selector.feedback(1, reports)
    assert repr(selector.state_dict()) == before


@pytest.mark.parametrize("counts", [["a"], [1e300, 1.0], [-1, 2], [0, 0], [math.nan, 1.0], 7j])
def test_label_counts_that_are_no_counts_are_refused(counts):
    selector = HeteroSelect()
    selector.select(1, [0], 1)
    with pytest.raises(ValueError, match=r"label_counts=.*must be counts of at least 0"):
        selector.feedback(1, {0: ClientReport(1.0, 10, label_counts=counts)})


def test_a_round_that_cannot_be_counted_is_refused():
    for round in (2**31, 2**70):
        with pytest.raises(ValueError, match=r"select\(round=.*at most"):
            Oort().select(round, [0], 1)
