import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hdet.federated.selection.draws import draw, largest
from hdet.seeding import generator


def chances(weights, count):
    """Return the probability of each ordered draw, one after another among those left."""
    found = {}
    for order in itertools.permutations(range(len(weights)), count):
        chance, left = 1.0, sum(weights)
        for i in order:
            chance *= weights[i] / left
            left -= weights[i]
        found[order] = chance
    return found


def test_a_draw_has_the_probabilities_of_drawing_one_after_another():
    weights, trials = [1.0, 2.0, 3.0, 6.0], 20_000
    logs = torch.tensor(weights, dtype=torch.float64).log()
    source = generator(0, "trials")
    counts: dict = {}
    for _ in range(trials):
        order = tuple(draw(logs, 2, source).tolist())
        counts[order] = counts.get(order, 0) + 1
    expected = chances(weights, 2)
    square = sum(
        (counts.get(o, 0) - trials * p) ** 2 / (trials * p) for o, p in expected.items()
    )
    # Chi-squared with 11 degrees of freedom: 31.3 is its 99.9 % point.
    assert square < 31.3


def test_a_shift_of_the_log_weights_and_huge_ones_change_nothing():
    logs = torch.tensor([1.0, 900.0, -3.0, 899.0], dtype=torch.float64)
    first = draw(logs, 3, generator(1))
    assert torch.equal(draw(logs + 5000, 3, generator(1)), first)
    assert set(first[:2].tolist()) == {1, 3}


def test_a_weight_of_zero_is_drawn_last():
    logs = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).log()
    assert draw(logs, 1, generator(0)).tolist() == [2]
    assert sorted(draw(logs, 3, generator(0)).tolist()) == [0, 1, 2]


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=20),
    st.data(),
)
def test_spare_ones_are_taken_only_when_the_others_do_not_suffice(items, data):
    values = torch.tensor([v for v, _ in items], dtype=torch.float64)
    spare = torch.tensor([s for _, s in items])
    count = data.draw(st.integers(0, len(items)))
    chosen = largest(values, count, spare).tolist()
    assert len(set(chosen)) == count
    first = sum(not s for _, s in items)
    assert sum(bool(spare[i]) for i in chosen) == max(0, count - first)
    if first:
        best = max(v for v, s in items if not s)
        assert count == 0 or float(values[chosen[0]]) == pytest.approx(best)
