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
