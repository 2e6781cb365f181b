"""Intervals and rounds to a target are those computed by hand."""

import math

import pytest

from benchmarks.federated.paired import (
    Interval,
    differences,
    first_round,
    interval,
    quantile,
    ratio,
    speed,
)
from benchmarks.federated.words import between, listed, mean, signed, standings, times


def test_an_interval_by_hand() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    error = math.sqrt(2.5 / 5)
    # Student's table, four degrees of freedom: 0.975 and, for two comparisons, 0.9875.
    assert found.mean == 3.0
    assert found.error == pytest.approx(error)
    assert found.low == pytest.approx(3 - 2.776445 * error)
    assert found.high == pytest.approx(3 + 2.776445 * error)
    assert found.lower(2) == pytest.approx(3 - 3.495406 * error)
    assert (found.seeds, found.sign) == (5, 1)


def test_differences_are_taken_seed_by_seed() -> None:
    found = differences([10.0, 20.0, 30.0], [9.0, 18.0, 27.0])
    assert found.mean == 2.0
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert found.sign == 0
    assert differences([9.0, 18.0], [10.0, 19.0]).sign == -1


def test_one_seed_tells_nothing_for_sure() -> None:
    found = interval([3.0])
    assert found.mean == 3.0
    assert math.isnan(found.low)
    assert found.sign == 0
    assert math.isnan(quantile(1))


def test_the_first_round_at_a_target() -> None:
    assert first_round([10.0, 30.0, 20.0, 30.0], 30.0) == 2
    assert first_round([10.0, 30.0], 30.1) is None
    # The mean of ten equal decimals is not always the decimal itself.
    assert first_round([24.51] * 10, sum([24.51] * 10) / 10) == 1


def test_a_ratio_by_hand() -> None:
    # Over the last ten rounds the plain run has 57 percent, in round 8 for the first time.
    plain = [20.0, 30.0, 40.0, 50.0, 52.0, 54.0, 56.0, 58.0, 60.0, 60.0, 60.0, 80.0]
    assert sum(plain[2:]) / 10 == 57.0
    assert ratio(plain, [50.0, 57.0, 10.0]) == 4.0
    assert ratio(plain, plain) == 1.0
    assert ratio(plain, [10.0, 56.9]) == 0.0
    assert ratio([10.0, 11.0, 12.0], [90.0]) is None


def test_medians_of_those_that_get_there_and_of_all() -> None:
    found = speed([2.0, 0.0, None, 4.0, 3.0])
    assert (found.reached, found.all, found.share) == (3.0, 2.5, 0.75)
    assert (found.targets, found.runs) == (4, 5)
    nothing = speed([None, None])
    assert all(map(math.isnan, (nothing.reached, nothing.all, nothing.share)))
    assert math.isnan(speed([0.0]).reached)


def test_words() -> None:
    one = Interval(1.234, 0.1, -0.5, 2.96, 3)
    nothing = interval([])
    assert mean(one) == "1.23 ± 0.10"
    assert signed(one) == "+1.23 (-0.50 to +2.96)"
    assert times(one) == "1.23 (-0.50 to 2.96)"
    assert signed(interval([-2.0])) == "-2.00 (one seed)"
    assert {mean(nothing), signed(nothing), times(nothing)} == {"–"}
    assert [between(x, 1.1, 3.0) for x in (1.0, 1.1, 3.1, math.nan)] == [
        "below the paper's range",
        "within the paper's range",
        "above the paper's range",
        "not measured",
    ]
    assert [listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert standings({"a": 0, "b": 1, "c": 1}, "above", "below") == (
        "above b and c; not told apart from a"
    )
