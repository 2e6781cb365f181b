import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hdet.replica.ensemble.permutation import permutation
from hdet.replica.explorer.attribution import confidence, slopes, without_outliers
from hdet.seeding import generator


def grid(n):
    return [2 * r / (n - 1) - 1 for r in range(n)]


def shuffled(n, seed, sync, name):
    return [grid(n)[column] for column in permutation(n, seed, sync, name)]


def test_one_hyperparameter_gives_the_ordinary_slope():
    found = slopes([1.0, 2.0, 3.0, 4.0], [grid(4)])
    assert found.slope == pytest.approx([1.5])
    assert not found.confounded


def test_the_sign_is_that_of_the_papers_weighted_mean():
    # Delta of equation (4) with small differences: -cov(L, x) / sigma.
    x, losses = grid(6), [0.3, 0.1, 0.25, 0.2, 0.05, 0.12]
    mean = sum(losses) / 6
    delta = sum((mean - loss) * value for loss, value in zip(losses, x, strict=True)) / 6
    slope = slopes(losses, [x]).slope[0]
    assert slope == pytest.approx(-delta * 6 / sum(v * v for v in x))


def quadratic(n, sync, noise, names=("a", "b")):
    """Losses of replicas around a point of a quadratic whose gradient is (2, -1)."""
    rows = [shuffled(n, 0, sync, name) for name in names]
    draw = torch.randn(n, generator=generator(5, sync), dtype=torch.float64)
    losses = [
        2 * rows[0][r]
        - rows[1][r]
        + 0.1 * (rows[0][r] ** 2 + rows[1][r] ** 2)
        + noise * float(draw[r])
        for r in range(n)
    ]
    return losses, rows


def test_the_sign_is_right_at_a_signal_to_noise_ratio_of_one():
    n, trials = 8, 400
    # The slope's own standard error is noise / sqrt(sum z^2): with noise as large as the
    # spread of the signal over the replicas, the ratio of the two for one sync is above 2.
    signal = math.sqrt(sum((2 * z) ** 2 for z in grid(n)) / n)
    right = sum(slopes(*quadratic(n, sync, signal)).slope[0] > 0 for sync in range(trials))
    assert right > 0.95 * trials


def test_the_slopes_are_unbiased_under_noise():
    found = [slopes(*quadratic(8, sync, 1.0)).slope for sync in range(2000)]
    mean = [sum(column) / len(found) for column in zip(*found, strict=True)]
    # 1 % is the ridge's; the rest is three standard errors of 2000 trials.
    assert mean == pytest.approx([2.0, -1.0], abs=0.02 + 3 * 0.6 / math.sqrt(2000))


def test_two_hyperparameters_are_not_blamed_for_each_other():
    together, apart = [], []
    for sync in range(20):  # some permutations look alike, others have nothing in common
        losses, rows = quadratic(8, sync, 0.0)
        both = slopes(losses, rows).slope
        assert both == pytest.approx([2.0, -1.0], abs=0.2)
        one_at_a_time = [slopes(losses, [row]).slope[0] for row in rows]
        together.append(max(abs(both[0] - 2), abs(both[1] + 1)))
        apart.append(max(abs(one_at_a_time[0] - 2), abs(one_at_a_time[1] + 1)))
    assert sum(apart) > 5 * sum(together)


def test_eight_hyperparameters_on_four_replicas_stay_finite_and_say_so():
    rows = [shuffled(4, 1, 0, str(j)) for j in range(8)]
    losses = [0.5 + rows[0][r] for r in range(4)]
    found = slopes(losses, rows)
    assert found.confounded
    assert all(math.isfinite(x) for x in [*found.slope, *found.t])
    assert found.slope[0] > 0
    assert sum(abs(x) for x in found.slope) < 4


def test_equal_permutations_share_the_effect_between_them():
    row = grid(4)
    found = slopes([float(z) for z in row], [row, row])
    assert found.slope[0] == pytest.approx(found.slope[1])
    assert sum(found.slope) == pytest.approx(1.0, rel=0.3)


def test_a_non_finite_loss_is_left_out():
    assert slopes([1.0, math.nan, 3.0, 4.0], [grid(4)]).slope == pytest.approx([1.5])
    assert slopes([1.0, math.inf, math.nan, math.nan], [grid(4)]).slope == [0.0]


def test_two_replicas_give_the_sign_of_one_hyperparameter():
    found = slopes([1.0, 3.0], [grid(2)])
    assert found.slope == pytest.approx([1.0])
    assert confidence(found.t[0]) == pytest.approx(-1.0)
    assert not found.confounded


def test_constant_losses_are_no_confidence():
    found = slopes([0.7] * 8, [grid(8)])
    assert found.slope == pytest.approx([0.0])
    assert confidence(found.t[0]) == pytest.approx(0.0)


def test_an_exploding_replica_says_worse_without_bending_the_line():
    x = grid(8)
    calm = [0.1 * z for z in x]
    losses = [*calm[:-1], 1e9]
    cut = without_outliers(losses)
    assert cut[:-1] == calm[:-1]
    assert cut[-1] < 1
    assert confidence(slopes(cut, [x]).t[0]) < -0.9


def test_losses_that_are_alike_have_no_outliers():
    assert without_outliers([1.0, 1.0, 1.0, 5.0]) == [1.0, 1.0, 1.0, 5.0]
    assert without_outliers([math.nan, math.nan])[0] != 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12),
    st.integers(1, 9),
    st.floats(0.1, 100),
    st.floats(-1e3, 1e3),
)
def test_scale_and_shift_of_the_losses_leave_the_slopes_alone(losses, count, scale, shift):
    n = len(losses)
    rows = [shuffled(n, 2, 0, str(j)) for j in range(count)]
    found = slopes(losses, rows)
    assert all(-1 <= confidence(t) <= 1 for t in found.t)
    scaled = slopes([scale * x for x in losses], rows)
    spread = max(losses) - min(losses)
    assert scaled.slope == pytest.approx(
        [scale * b for b in found.slope], abs=1e-6 * scale * (spread + 1)
    )
    moved = slopes([x + shift for x in losses], rows)
    assert moved.slope == pytest.approx(found.slope, abs=1e-6 * (spread + abs(shift) + 1))
