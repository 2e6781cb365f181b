import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hdet
from hdet.replica.explorer.checks import collect
from tests.helpers import small_model, two_groups


def adamw(**settings):
    return torch.optim.AdamW(two_groups(small_model()), **settings)


def test_lr_is_one_dimension_for_each_group():
    found = hdet.lr().dimensions(adamw())
    assert [d.name for d in found] == ["lr/0", "lr/1"]
    assert [d.group for d in found] == [0, 1]
    assert found[0].width == pytest.approx(math.log(1.3))


def test_groups_are_found_by_name():
    groups = two_groups(small_model())
    groups[1]["name"] = "no_decay"
    optimizer = torch.optim.AdamW(groups)
    (found,) = hdet.lr(groups=["no_decay"]).dimensions(optimizer)
    assert found.group == 1
    with pytest.raises(ValueError, match=r"lr\(groups='head'\).*no_decay"):
        hdet.lr(groups=["head"]).dimensions(optimizer)


@pytest.mark.parametrize("request_of", [hdet.lr, hdet.weight_decay, hdet.betas])
def test_groups_without_parameters_are_left_out(request_of):
    groups = [*two_groups(small_model()), {"params": []}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    names = [found.name.rsplit("/", 1)[1] for found in request_of().dimensions(optimizer)]
    assert names == ["0", "1"]


def test_weight_decay_leaves_out_groups_without_one():
    groups = two_groups(small_model())
    groups[1]["weight_decay"] = 0.0
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    (found,) = hdet.weight_decay().dimensions(optimizer)
    found.write(0.2)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.2, 0.0]
    assert found.value == 0.05
    with pytest.raises(ValueError, match="positive `weight_decay`"):
        hdet.weight_decay().dimensions(torch.optim.SGD(small_model().parameters(), lr=0.1))


def test_betas_write_their_place_only():
    optimizer = adamw(betas=(0.9, 0.95))
    found = hdet.betas(1, groups=[0]).dimensions(optimizer)
    found[0].write(0.99)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.95)
    assert not found[0].shares_state


def test_betas_are_momentum_for_sgd_and_refused_where_there_is_none():
    optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1, momentum=0.8)
    (found,) = hdet.betas().dimensions(optimizer)
    found.write(0.5)
    assert optimizer.param_groups[0]["momentum"] == 0.5
    with pytest.raises(ValueError, match="no such entry"):
        hdet.betas(1).dimensions(optimizer)


def test_a_tensor_rate_or_entry_stays_the_same_tensor():
    optimizer = adamw(weight_decay=0.1)
    tensor = optimizer.param_groups[0]["weight_decay"] = torch.tensor(0.1)
    found = hdet.weight_decay().dimensions(optimizer)
    found[0].write(0.4)
    assert optimizer.param_groups[0]["weight_decay"] is tensor
    assert float(tensor) == pytest.approx(0.4)


def test_an_attribute_may_be_shared_by_modules():
    layers = [nn.Dropout(0.3), nn.Dropout(0.3)]
    (found,) = hdet.attribute(layers, "p", bounds=(0, 0.9)).dimensions(adamw())
    assert found.scale == "logit"
    found.write(0.6)
    assert [layer.p for layer in layers] == [0.6, 0.6]


def test_attributes_of_one_name_are_numbered():
    requests = [
        hdet.attribute(nn.Dropout(0.3), "p", bounds=(0, 0.9)),
        hdet.attribute(nn.Dropout(0.2), "p", bounds=(0, 0.9)),
    ]
    assert [d.name for d in collect(requests, adamw())] == ["p#0", "p#1"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: hdet.lr(spread=0), "must be a positive number"),
        (lambda: hdet.lr(bounds=(2, 1)), "lowest, highest"),
        (lambda: hdet.lr(bounds=(0, 1)), "both positive"),
        (lambda: hdet.betas(bounds=(0, 2)), r"within \[0, 1\]"),
        (lambda: hdet.attribute(nn.Dropout(0.3), "q"), "must be one number"),
        (lambda: hdet.attribute(nn.Dropout(0.0), "p"), "must be given"),
        (lambda: hdet.attribute(nn.Dropout(0.0), "p", bounds=(0, 0.9)), "start from a value"),
        (lambda: hdet.attribute([nn.Dropout(0.1), nn.Dropout(0.2)], "p"), "one number"),
    ],
)
def test_bad_arguments_are_named_with_a_remedy(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_asking_twice_is_refused():
    with pytest.raises(ValueError, match="every hyperparameter once"):
        collect([hdet.lr(), hdet.lr(groups=[1])], adamw())


def test_forgetting_the_call_is_explained():
    with pytest.raises(ValueError, match="rather than hdet.lr"):
        collect([hdet.lr], adamw())  # pyright: ignore[reportArgumentType]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["log", "logit", "linear"]),
    st.floats(0.01, 0.89),
    st.lists(st.floats(-1e6, 1e6), max_size=20),
)
def test_bounds_hold_whatever_the_moves(scale, value, moves):
    layer = nn.Dropout(value)
    low, high = 0.005, 0.9
    (d,) = hdet.attribute(layer, "p", 0.5, (low, high), scale).dimensions(adamw())
    place = d.to_scale(d.value)
    assert d.from_scale(place) == pytest.approx(value)
    for move in moves:
        place = d.clamp(place + move)
        assert math.isfinite(place)
        for z in (-1, 0, 1):
            assert low <= d.from_scale(place + z * d.width) <= high
