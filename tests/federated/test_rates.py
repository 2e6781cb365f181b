"""FedHyper's server rules: known trajectories, signs, clips, null settings, resume."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hdet.federated import GlobalRate, ServerLocalRate

UP = torch.tensor([1.0, 0.5])


def test_the_first_round_keeps_alpha_zero():
    assert GlobalRate(1.5).update(UP) == 1.5


def test_agreeing_updates_raise_and_opposed_ones_lower():
    rate = GlobalRate(1.0, step="absolute")
    rate.update(UP)
    assert rate.update(UP * 0.5) == 1.0 + 0.625
    assert rate.update(-UP) == 1.625 - 0.625
    assert rate.hypergradient == -0.625


def test_the_clip_is_hit_exactly():
    rate = GlobalRate(1.0, gamma=3.0, step="absolute")
    rate.update(100 * UP)
    assert rate.update(100 * UP) == 3.0
    assert rate.update(-100 * UP) == 1 / 3


def test_a_known_quadratic_gives_a_known_trajectory():
    # f(w) = w^2 / 2 from w = 1, one local step at 0.1: Delta = -0.1 w. By hand:
    # w2 = 0.9; Delta2 = -0.09, h = 0.009, alpha = 1.009, w3 = 0.9 - 1.009 * 0.09 = 0.80919;
    # Delta3 = -0.080919, h = 0.00728271, alpha = 1.01628271.
    rate, weight, alphas = GlobalRate(step="absolute"), 1.0, []
    for _ in range(3):
        delta = -0.1 * weight
        alphas.append(rate.update(torch.tensor([delta], dtype=torch.float64)))
        weight += alphas[-1] * delta
    assert alphas == pytest.approx([1.0, 1.009, 1.01628271], abs=1e-12)
    assert weight == pytest.approx(0.80919 - 1.01628271 * 0.080919, abs=1e-12)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_gamma_one_never_moves(values):
    alpha, beta = GlobalRate(gamma=1.0), ServerLocalRate(0.03, gamma=1.0)
    for value in values:
        delta = torch.tensor([value], dtype=torch.float64)
        assert alpha.update(delta) == 1.0
        assert beta.update(delta) == 0.03


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20),
    st.sampled_from(["absolute", "relative", "cosine"]),
)
def test_rates_stay_in_their_clips(values, step):
    alpha = GlobalRate(2.0, gamma=3.0, step=step)
    beta = ServerLocalRate(0.01, gamma=10.0, step=step)
    for value in values:
        delta = torch.tensor([value, 1.0], dtype=torch.float64)
        assert 1 / 3 <= alpha.update(delta) <= 3.0
        assert 0.01 / 10 <= beta.update(delta) <= 0.01 * 10


BACK = -UP


@pytest.mark.parametrize(
    ("step", "full"),
    # <back, up> = -1.25, and their cosine is -1.
    [("cosine", 0.8 * 0.5), ("absolute", 1.25), ("relative", 0.8 * 1.25)],
)
def test_fall_is_the_share_of_a_step_downwards_that_is_made(step, full):
    for fall in (0.0, 0.5, 1.0):
        rate = ServerLocalRate(0.8, gamma=1e6, step=step, fall=fall)
        rate.update(UP)
        assert rate.update(BACK) == pytest.approx(max(0.8 - fall * full, 0.8e-6), rel=1e-12)
        assert rate.hypergradient == -1.25


def test_with_fall_zero_a_negative_product_leaves_beta_to_the_last_bit():
    rate = ServerLocalRate(0.1, fall=0.0)
    rate.update(UP)
    assert rate.update(BACK) == 0.1
    assert rate.update(UP) == 0.1
    assert rate.update(UP) == pytest.approx(0.15, rel=1e-12)


def test_fall_leaves_steps_upwards_alone():
    for fall in (0.0, 1.0):
        rate = ServerLocalRate(0.1, fall=fall)
        rate.update(UP)
        assert rate.update(3 * UP) == pytest.approx(0.15, rel=1e-12)


def test_the_default_step_of_both_rules_is_the_cosine():
    alpha, beta = GlobalRate(), ServerLocalRate(0.1)
    for rate in (alpha, beta):
        rate.update(100 * UP)
        rate.update(0.01 * UP)
    assert alpha.alpha == pytest.approx(1.5, rel=1e-12)
    assert beta.beta == pytest.approx(0.15, rel=1e-12)


def test_how_far_a_unit_of_hypergradient_moves_beta():
    after = {}
    for step in ("absolute", "relative", "cosine"):
        rate = ServerLocalRate(0.01, gamma=1e6, step=step)
        rate.update(torch.tensor([0.5]))
        after[step] = rate.update(torch.tensor([0.2]))
    assert after["absolute"] == pytest.approx(0.01 + 0.1)
    assert after["relative"] == pytest.approx(0.01 * (1 + 0.1))
    assert after["cosine"] == pytest.approx(0.01 * (1 + 0.5))


def test_a_cosine_step_has_no_unit():
    ends = []
    for unit in (1e-4, 1.0, 1e4):
        rate = ServerLocalRate(0.01, step="cosine")
        for delta in ([1.0, 0.0], [1.0, 1.0], [0.0, 1.0]):
            end = rate.update(unit * torch.tensor(delta, dtype=torch.float64))
        ends.append(end)
    assert ends == pytest.approx([0.01 * (1 + 0.5 * 0.5**0.5) ** 2] * 3, rel=1e-12)


def test_a_zero_update_says_nothing():
    rate = GlobalRate(step="cosine")
    rate.update(torch.zeros(3))
    assert rate.update(torch.ones(3)) == 1.0


def test_products_are_taken_in_float64_and_in_pieces():
    # 3 * 2^20 products of 0.1^2 in float32 would miss by more than the tolerance.
    delta = torch.full((3 * 2**20 + 5,), 0.1)
    rate = GlobalRate(1.0, gamma=1e9, step="absolute")
    rate.update(delta)
    exact = 1.0 + delta.double().square().sum().item()
    assert rate.update(delta) == pytest.approx(exact, rel=1e-12)


def test_arrays_do_as_well_as_tensors():
    rate, other = GlobalRate(), GlobalRate()
    for delta in (np.array([0.1, 0.2]), np.array([[0.3, 0.1]])):
        ours = rate.update(delta)
        assert ours == other.update(torch.from_numpy(delta.ravel()))


def test_the_caller_may_reuse_its_buffer():
    buffer, rate = torch.tensor([1.0]), GlobalRate(step="absolute")
    rate.update(buffer)
    buffer.fill_(-1.0)
    assert rate.update(torch.tensor([0.5])) == 1.5


@pytest.mark.parametrize("rule", [GlobalRate, lambda: ServerLocalRate(0.01)])
def test_a_resumed_run_goes_on_bit_for_bit(rule):
    deltas = torch.randn(6, 9, generator=torch.Generator().manual_seed(3)) / 10
    whole, first = rule(), rule()
    for delta in deltas[:3]:
        whole.update(delta)
        first.update(delta)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = rule()
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [second.update(d) for d in deltas[3:]] == [whole.update(d) for d in deltas[3:]]


@pytest.mark.parametrize(
    "bad", [torch.tensor([float("nan"), 1.0]), torch.ones(3), torch.ones(2).int()]
)
def test_a_refused_update_changes_nothing(bad):
    rate = GlobalRate()
    rate.update(UP)
    before = rate.state_dict()
    with pytest.raises(ValueError, match=r"GlobalRate\.update\(delta="):
        rate.update(bad)
    assert rate.state_dict()["rate"] == before["rate"]
    assert torch.equal(rate.state_dict()["previous"], before["previous"])


def test_a_first_update_that_is_not_finite_is_refused():
    rate = GlobalRate()
    with pytest.raises(ValueError, match="not finite"):
        rate.update(torch.tensor([float("inf")]))
    assert rate.previous_update is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GlobalRate(gamma=0.5), "gamma=0.5.*at least 1"),
        (lambda: GlobalRate(alpha=4.0), "alpha=4.0.*increase gamma"),
        (lambda: GlobalRate(step="cos"), 'step=\'cos\'.*"cosine", "absolute" or "relative"'),
        (lambda: ServerLocalRate(0.0), "beta=0.0.*above 0"),
        (lambda: ServerLocalRate(0.1, gamma=float("inf")), "gamma=inf"),
    ],
)
def test_bad_arguments_are_refused_in_words(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_state_outside_the_clip_or_incomplete_is_refused():
    rate = GlobalRate(gamma=1.5)
    with pytest.raises(ValueError, match="arguments of the run"):
        rate.load_state_dict({"rate": 3.0, "hypergradient": 0.0, "previous": None})
    with pytest.raises(ValueError, match="without `hypergradient`"):
        rate.load_state_dict({"rate": 1.0, "previous": None})


def test_a_state_is_of_the_same_trainable_parameters():
    rate, other = GlobalRate(), GlobalRate()
    rate.update(UP)
    other.update(torch.ones(3))
    with pytest.raises(ValueError, match=r"previous.*of shape \(2,\)"):
        rate.load_state_dict(other.state_dict())
    fresh = GlobalRate()
    fresh.load_state_dict(other.state_dict())
    assert torch.equal(fresh.state_dict()["previous"], torch.ones(3))


def test_a_loaded_state_is_a_copy():
    rate, fresh = GlobalRate(), GlobalRate()
    rate.update(UP)
    state = rate.state_dict()
    fresh.load_state_dict(state)
    state["previous"].fill_(7.0)
    assert torch.equal(fresh.state_dict()["previous"], UP)
