import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdet.replica.ensemble.permutation import permutation


@given(st.integers(1, 64), st.integers(0, 2**40), st.integers(0, 10**6))
def test_a_permutation_is_one_and_repeats_for_its_key(n, seed, sync):
    order = permutation(n, seed, sync, "lr 0")
    assert sorted(order) == list(range(n))
    assert order == permutation(n, seed, sync, "lr 0")


def test_groups_syncs_and_seeds_draw_different_permutations():
    keys = [(0, 1, "lr 0"), (0, 1, "lr 1"), (0, 2, "lr 0"), (1, 1, "lr 0")]
    orders = {tuple(permutation(32, *key)) for key in keys}
    assert len(orders) == len(keys)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_order_is_as_likely_as_any_other(n):
    draws, orders = 6_000, list(itertools.permutations(range(n)))
    found = Counter(tuple(permutation(n, seed, 1, "lr/0")) for seed in range(draws))
    expected = draws / len(orders)
    chi_square = sum((found[order] - expected) ** 2 / expected for order in orders)
    # Of k - 1 degrees of freedom it has mean k - 1 and variance 2 (k - 1).
    degrees = len(orders) - 1
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5


def test_the_orders_of_neighbouring_syncs_do_not_hang_together():
    draws, n = 4_000, 4
    pairs = Counter(
        (permutation(n, 0, sync, "lr/0")[0], permutation(n, 0, sync + 1, "lr/0")[0])
        for sync in range(draws)
    )
    expected = draws / n**2
    chi_square = sum((pairs[pair] - expected) ** 2 / expected for pair in pairs)
    assert len(pairs) == n**2
    assert chi_square < 15 + 4 * 30**0.5


def test_the_orders_are_the_same_on_every_machine():
    assert permutation(8, 3, 5, "lr/0") == [4, 3, 2, 1, 6, 0, 5, 7]
