"""The stream's order and the initial weights, which all tasks share."""

import pytest
import torch
from torch import nn

from benchmarks.tasks import _stream, _weights
from hdet.seeding import generator


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_one_pass_deals_each_place_at_most_once(world_size):
    count, batch_size = 103, 4
    steps = _stream.steps_in(count, batch_size, world_size)
    dealt = [
        place
        for step in range(steps)
        for rank in range(world_size)
        for place in _stream.places(count, batch_size, step, rank, world_size).tolist()
    ]
    assert sorted(dealt) == list(range(steps * world_size * batch_size))
    assert count - len(dealt) < world_size * batch_size


def test_a_rank_outside_the_world_is_refused():
    for rank in (-1, 2):
        with pytest.raises(ValueError, match=f"rank {rank} is not among 2"):
            _stream.places(100, 4, 0, rank, 2)


def test_the_order_is_a_permutation_that_seed_and_name_fix():
    order = _stream.shuffled(1000, 0, "a")
    assert torch.equal(order.sort().values, torch.arange(1000))
    _stream.shuffled.cache_clear()
    assert torch.equal(order, _stream.shuffled(1000, 0, "a"))
    assert not torch.equal(order, _stream.shuffled(1000, 1, "a"))
    assert not torch.equal(order, _stream.shuffled(1000, 0, "b"))


def test_initial_weights_have_variance_one_over_fan_in():
    model = _weights.initialised(lambda: nn.Linear(400, 300), generator(0))
    assert model.weight.std().item() == pytest.approx(1 / 20, rel=0.02)
    assert model.bias.abs().max() == 0


def test_unknown_modules_and_matrices_without_a_group_are_named():
    with pytest.raises(TypeError, match="'0', a Bilinear"):
        _weights.initialised(lambda: nn.Sequential(nn.Bilinear(2, 2, 2)), generator(0))
    with pytest.raises(ValueError, match=r"'1\.weight' fits none"):
        _weights.grouped(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), {"first": ["0."]})
