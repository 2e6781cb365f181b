import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hdet


def test_eight_replicas_at_the_papers_spread():
    rho = hdet.multipliers(8, 1 / 9)
    expected = [1 + (r - 3.5) / 3.5 / 9 for r in range(8)]
    assert rho.tolist() == pytest.approx(expected, rel=1e-15)
    assert rho.dtype == torch.float64


def test_two_replicas_use_the_half_width_of_the_formula():
    assert hdet.multipliers(2, 0.5).tolist() == [0.5, 1.5]


@given(st.integers(1, 300))
def test_no_spread_gives_exact_ones(n):
    assert hdet.multipliers(n, 0.0).tolist() == [1.0] * n


def test_one_replica_keeps_the_base_value():
    assert hdet.multipliers(1, 0.9).tolist() == [1.0]


@given(st.integers(2, 300), st.floats(0.001, 0.999))
def test_multipliers_add_up_to_n_and_stay_within_the_spread(n, spread):
    rho = hdet.multipliers(n, spread)
    assert float(rho.sum()) == pytest.approx(n, rel=1e-12)
    assert float(rho.min()) == pytest.approx(1 - spread, rel=1e-12)
    assert float(rho.max()) == pytest.approx(1 + spread, rel=1e-12)
    assert bool((rho.diff() > 0).all())


@pytest.mark.parametrize("spread", [-0.1, 1.0, float("nan")])
def test_a_spread_out_of_range_is_refused_with_value_and_remedy(spread):
    with pytest.raises(ValueError, match=r"`multipliers\(spread=.*\[0, 1\).*1/9"):
        hdet.multipliers(4, spread)


@pytest.mark.parametrize("n", [0, -1, 2.0])
def test_a_wrong_number_of_replicas_is_refused(n):
    with pytest.raises(ValueError, match="at least 1"):
        hdet.multipliers(n, 0.1)
