import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdet.replica.paper.controller import Controller, decay_per_sync, softmax_weights
from hdet.replica.paper.state import parsed_rates
from hdet.state import Entries

losses = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=16)


def test_one_update_by_hand():
    rule = Controller(loss_scale=0.1, lr_of_lr=0.5, momentum=0.9, decay=0.05)
    values, interval_losses = [0.9, 1.0, 1.1], [2.0, 2.1, 2.3]
    scores = [math.exp((sum(interval_losses) / 3 - x) / 0.1) for x in interval_losses]
    weights = [s / sum(scores) for s in scores]
    assert softmax_weights(interval_losses, 0.1) == pytest.approx(weights, rel=1e-14)
    base = rule.decide([0.02], [values], interval_losses, sync=4)
    delta = sum(w * x for w, x in zip(weights, values, strict=True)) - 1.0
    velocity = 0.9 * 0.02 + 0.1 * delta
    assert base.weights == pytest.approx(weights, rel=1e-14)
    assert base.deltas == pytest.approx([delta], rel=1e-12)
    assert base.velocities == pytest.approx([velocity], rel=1e-12)
    assert base.values == pytest.approx([0.95 + 0.5 * velocity], rel=1e-12)
    assert base.floored == [False]
    assert base.acted_at == 4


def moved(rule, rates, seen, velocity=0.0):
    """Return the next base rate of one group."""
    (base,) = rule.decide([velocity], [rates], seen, sync=1).values
    return base


def test_the_base_moves_towards_the_better_replicas():
    rule = Controller(0.1, 0.5, 0.9, 0.0)
    assert moved(rule, [0.9, 1.1], [2.0, 1.0]) > 1.0 > moved(rule, [0.9, 1.1], [1.0, 2.0])


@given(losses, st.floats(1e-3, 1e3))
def test_weights_are_a_distribution_that_prefers_low_losses(values, scale):
    weights = softmax_weights(values, scale)
    assert math.fsum(weights) == pytest.approx(1)
    assert all(0 < w <= 1 for w in weights)
    order = sorted(range(len(values)), key=values.__getitem__)
    ranked = [weights[i] for i in order]
    assert all(a >= b for a, b in zip(ranked, ranked[1:], strict=False))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-100, 100))
def test_a_spike_common_to_all_replicas_changes_nothing(values, spike):
    shifted = softmax_weights([x + spike for x in values], 0.5)
    assert shifted == pytest.approx(softmax_weights(values, 0.5), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_replica_without_a_finite_loss_has_exactly_no_weight(bad):
    weights = softmax_weights([1.0, bad, 1.0], 0.1)
    assert weights == [0.5, 0.0, 0.5]


def test_no_finite_loss_moves_nothing_but_the_decay():
    weights = softmax_weights([math.nan, math.inf], 0.1)
    assert weights == [0.0, 0.0]
    base = Controller(0.1, 0.5, 0.9, 0.25).decide([0.0], [[1.0, 3.0]], [math.nan, math.inf], 1)
    assert (base.deltas, base.velocities, base.values) == ([0.0], [0.0], [1.5])


def test_masking_a_replica_is_no_evidence_about_its_value():
    rule = Controller(0.1, 0.5, 0.9, 0.0)
    assert moved(rule, [0.8, 1.0, 1.2], [1.0, 1.0, math.nan]) == pytest.approx(1.0)


def test_where_the_equation_leaves_the_positive_numbers_the_floor_holds():
    base = Controller(0.1, 0.5, 0.9, 0.5).decide([-10.0], [[0.8, 1.2]], [1.0, 1.0], sync=1)
    assert base.floored == [True]
    assert base.values == pytest.approx([0.4])


@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8),
    st.floats(-1, 1),
    st.floats(0, 10),
    st.floats(0, 0.99),
    st.floats(0, 0.999),
    st.data(),
)
def test_the_base_never_turns_negative(values, velocity, lam, beta, gamma, data):
    seen = data.draw(
        st.lists(st.floats(allow_nan=True), min_size=len(values), max_size=len(values))
    )
    assert moved(Controller(0.1, lam, beta, gamma), values, seen, velocity) > 0


def test_the_decay_reaches_400_over_the_intervals_that_remain():
    gamma = decay_per_sync(25.0, 1e4, 40)
    assert 0 < gamma < 1
    assert (1 - gamma) ** 40 == pytest.approx(25 / 1e4, rel=1e-12)


def test_the_published_code_s_growth_cannot_happen():
    assert decay_per_sync(25.0, 10.0, 40) == 0.0


def decided():
    rule = Controller(loss_scale=0.1, lr_of_lr=0.5, momentum=0.5, decay=0.0)
    return rule.decide([0.0, 0.0], [[0.09, 0.11], [0.18, 0.22]], [1.0, 1.2], sync=4)


def test_a_state_goes_on_where_it_was():
    state = decided().state_dict()
    again = parsed_rates(Entries(state, "OneCycleAutoLR"), groups=2)
    assert again.state_dict() == state
    assert again.acted_at == 4


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("base_lrs", [0.1], "must have 2 items, and has 1"),
        ("base_lrs", [0.1, math.nan], "base_lrs.1` = nan, which must lie in"),
        ("base_lrs", [0.1, -0.1], "base_lrs.1` = -0.1, which must lie in"),
        ("velocities", None, "must be a list"),
        ("velocities", [0.0, "1"], "velocities.1` = '1', which must lie in"),
        ("acted_at", -1, "acted_at` = -1"),
    ],
)
def test_a_damaged_state_is_refused(key, value, words):
    state = decided().state_dict() | {key: value}
    with pytest.raises(ValueError, match=words):
        parsed_rates(Entries(state, "OneCycleAutoLR"), groups=2)
