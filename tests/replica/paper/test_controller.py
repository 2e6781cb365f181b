import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdet.replica.paper.controller import Controller, decay_per_sync, softmax_weights

losses = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=16)


def test_one_update_by_hand():
    rule = Controller(loss_scale=0.1, lr_of_lr=0.5, momentum=0.9, decay=0.05)
    values, interval_losses = [0.9, 1.0, 1.1], [2.0, 2.1, 2.3]
    scores = [math.exp((sum(interval_losses) / 3 - x) / 0.1) for x in interval_losses]
    weights = [s / sum(scores) for s in scores]
    assert softmax_weights(interval_losses, 0.1) == pytest.approx(weights, rel=1e-14)
    update = rule.update(0.02, values, weights)
    delta = sum(w * x for w, x in zip(weights, values, strict=True)) - 1.0
    assert update.delta == pytest.approx(delta, rel=1e-12)
    assert update.velocity == pytest.approx(0.9 * 0.02 + 0.1 * delta, rel=1e-12)
    assert update.base == pytest.approx(0.95 + 0.5 * update.velocity, rel=1e-12)
    assert not update.floored


def test_the_base_moves_towards_the_better_replicas():
    rule = Controller(0.1, 0.5, 0.9, 0.0)
    up = rule.update(0.0, [0.9, 1.1], softmax_weights([2.0, 1.0], 0.1))
    down = rule.update(0.0, [0.9, 1.1], softmax_weights([1.0, 2.0], 0.1))
    assert up.base > 1.0 > down.base


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
    update = Controller(0.1, 0.5, 0.9, 0.25).update(0.0, [1.0, 3.0], weights)
    assert (update.delta, update.velocity, update.base) == (0.0, 0.0, 1.5)


def test_masking_a_replica_is_no_evidence_about_its_value():
    weights = softmax_weights([1.0, 1.0, math.nan], 0.1)
    update = Controller(0.1, 0.5, 0.9, 0.0).update(0.0, [0.8, 1.0, 1.2], weights)
    assert update.delta == pytest.approx(0, abs=1e-15)
    assert update.base == pytest.approx(1.0)


def test_where_the_equation_leaves_the_positive_numbers_the_floor_holds():
    rule = Controller(0.1, 0.5, 0.9, 0.5)
    update = rule.update(-10.0, [0.8, 1.2], [0.5, 0.5])
    assert update.floored
    assert update.base == pytest.approx(0.4)


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
    update = Controller(0.1, lam, beta, gamma).update(
        velocity, values, softmax_weights(seen, 0.1)
    )
    assert update.base > 0


def test_the_decay_reaches_400_over_the_intervals_that_remain():
    gamma = decay_per_sync(25.0, 1e4, 40)
    assert 0 < gamma < 1
    assert (1 - gamma) ** 40 == pytest.approx(25 / 1e4, rel=1e-12)


def test_the_published_code_s_growth_cannot_happen():
    assert decay_per_sync(25.0, 10.0, 40) == 0.0
