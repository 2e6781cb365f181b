import math

import pytest
import torch
from torch import nn

import hdet
from tests.helpers import small_model, weights


def test_noise_has_the_size_of_equation_6():
    model = nn.Linear(300, 300, bias=False)
    before = model.weight.detach().clone()
    hdet.add_noise_(model, 0.02, generator=torch.Generator().manual_seed(5))
    noise = model.weight.detach() - before
    expected = 0.02 * before.norm() / 300
    assert float(noise.std()) == pytest.approx(float(expected), rel=0.02)
    assert abs(float(noise.mean())) < 4 * float(expected) / 300


def test_no_noise_changes_nothing():
    model = small_model()
    before = weights(model)
    hdet.add_noise_(model, 0.0)
    assert all(map(torch.equal, before, weights(model)))


def test_a_zero_parameter_stays_zero_and_buffers_stay():
    model = nn.BatchNorm1d(4)
    hdet.add_noise_(model, 0.5)
    assert not model.bias.any()
    assert model.running_mean is not None
    assert not model.running_mean.any()
    assert not torch.equal(model.weight, torch.ones(4))


def test_the_global_random_state_is_neither_read_nor_moved():
    first, second = small_model(), small_model()
    hdet.add_noise_(first)
    torch.rand(3)
    state = torch.get_rng_state()
    hdet.add_noise_(second)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, weights(first), weights(second)))


def test_parameters_draw_apart_and_half_precision_is_kept():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).bfloat16()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    hdet.add_noise_(model, 0.1)
    first, _, second, _ = model.parameters()
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, second)


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match=r"`add_noise_\(nu=-0.1\)` must be at least 0"):
        hdet.add_noise_(small_model(), -0.1)


def test_a_mask_among_the_parameters_stays_as_it_is():
    model = torch.nn.Linear(2, 2)
    mask = torch.full((3, 3), -math.inf).triu(1)
    model.mask = torch.nn.Parameter(mask.clone(), requires_grad=False)
    before = model.weight.detach().clone()
    hdet.add_noise_(model)
    assert torch.equal(model.mask, mask)
    assert not torch.equal(model.weight, before)
