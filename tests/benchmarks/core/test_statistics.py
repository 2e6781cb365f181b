"""Means, errors and intervals are those computed by hand."""

import math

import pytest

from benchmarks.core.statistics import difference, estimate


def test_a_mean_has_its_standard_error_and_students_interval() -> None:
    found = estimate([1.0, 2.0, 3.0, 6.0])
    assert found.mean == 3.0
    # s = sqrt(14 / 3), and t(0.975; 3) = 3.1824.
    assert found.error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert found.low == pytest.approx(3 - 3.1824 * found.error, abs=1e-4)
    assert found.high == pytest.approx(3 + 3.1824 * found.error, abs=1e-4)
    # Bonferroni for ten comparisons: t(0.9975; 3) = 7.4533.
    assert found.half_width(10) == pytest.approx(7.4533 * found.error, abs=1e-3)


def test_one_value_has_no_error() -> None:
    found = estimate([3.0])
    assert found.mean == 3.0
    assert math.isnan(found.error)
    assert (f"{found:.1f}", found.interval("+.1f"), found.sign) == ("3.0", "+3.0", 0)


@pytest.mark.parametrize(
    "values",
    [[], [math.nan], [1.0, math.nan], [math.inf, 1.0], [math.inf, -math.inf],
     [1.7e308, 1.7e308], [1.7e308, -1.7e308, 1.7e308, 1.7e308]],
)  # fmt: skip
def test_what_has_no_mean_is_nan(values: list[float]) -> None:
    found = estimate(values)
    assert math.isnan(found.mean)
    assert f"{found:.2f}" == found.interval(".2f") == "–"


def test_what_all_runs_of_a_seed_share_drops_out_of_a_difference() -> None:
    found = difference([2.99, 3.98, 4.99], [3.0, 4.0, 5.0])
    assert f"{found:+.4f}" == "-0.0133 ± 0.0033"
    assert found.interval("+.3f") == "-0.013 (-0.028 to +0.001)"
    assert found.sign == 0
    assert difference([1.0, 2.0, 3.1], [2.0, 3.0, 4.0]).sign == -1
