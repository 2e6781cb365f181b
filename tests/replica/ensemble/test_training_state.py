import copy
from typing import Any

import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch import nn

from hdet.replica.ensemble.groups import Replicas
from hdet.replica.ensemble.training_state import TrainingState
from hdet.state import Entries
from tests.helpers import loss_at, small_model, two_groups

OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda g: torch.optim.AdamW(g, 0.02, amsgrad=True),
    "nadam": lambda g: torch.optim.NAdam(g, 0.02),
    "adagrad": lambda g: torch.optim.Adagrad(g, 0.02),
    "plain": lambda g: torch.optim.SGD(g, 0.02),
    "momentum": lambda g: torch.optim.SGD(g, 0.02, momentum=0.9),
    "schedule-free": lambda g: AdamWScheduleFree(g, 0.02),
}


def made(name="adamw", model=None):
    model = model or small_model(norm=True)
    optimizer = OPTIMIZERS[name](two_groups(model))
    return model, optimizer, TrainingState(optimizer, model)


def train(model, optimizer, steps):
    getattr(optimizer, "train", lambda: None)()
    for t in steps:
        optimizer.zero_grad()
        loss_at(model, t, 0).backward()
        optimizer.step()


def everything(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_comes_back_to_the_bit_and_in_place(name, before):
    model, optimizer, state = made(name)
    train(model, optimizer, range(before))
    was = everything(model, optimizer)
    tensors = [t for s in optimizer.state.values() for t in s.values()]
    point = state.copied()
    train(model, optimizer, range(50, 54))
    assert not same(everything(model, optimizer), was)
    state.put_back(point)
    back = everything(model, optimizer)
    for found in (was, back):
        for group in found[1]["param_groups"]:
            group.pop("train_mode", None)  # at first Schedule-Free is in neither mode
    assert same(back, was)
    now = [t for s in optimizer.state.values() for t in s.values()]
    assert list(map(id, now)) == list(map(id, tensors))


def test_rates_and_settings_stay_as_the_schedule_has_them():
    model, optimizer, state = made("schedule-free")
    point = state.copied()
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.5, 0.25
    train(model, optimizer, range(2))
    state.put_back(point)
    for group in optimizer.param_groups:
        assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
        assert (group["k"], group["weight_sum"], group["lr_max"]) == (0, 0.0, -1.0)


def test_nested_state_counters_and_what_is_no_parameters_come_back():
    model, optimizer, state = made("plain")
    first = next(iter(model.parameters()))
    inside = torch.ones(2)
    optimizer.state[first] = {"parts": [inside, (torch.ones(1), 3)], "step": 4, "name": "a"}
    optimizer.state["global"] = {"scale": torch.ones(())}
    optimizer.param_groups[0]["step"] = 7
    point = state.copied()
    inside.mul_(5)
    optimizer.state[first] |= {"step": 9, "later": 1, "parts": [inside, (torch.zeros(1), 8)]}
    optimizer.state["global"]["scale"].zero_()
    optimizer.state["new"] = torch.ones(1)
    optimizer.param_groups[0]["step"] = 9
    state.put_back(point)
    expected = {"parts": [torch.ones(2), (torch.ones(1), 3)], "step": 4, "name": "a"}
    assert same(optimizer.state[first], expected)
    assert optimizer.state[first]["parts"][0] is inside
    assert same(optimizer.state["global"], {"scale": torch.ones(())})
    assert "new" not in optimizer.state
    assert optimizer.param_groups[0]["step"] == 7


def test_buffers_of_any_kind_come_back_and_constants_are_left_alone():
    model = nn.Linear(2, 2)
    model.register_buffer("count", torch.ones((), dtype=torch.int64))
    model.register_buffer("swapped", torch.ones(2))
    model.register_buffer("mask", torch.ones(1).expand(3))
    _, _, state = made("plain", model)
    point = state.copied()
    swapped = model.get_buffer("swapped")
    model.get_buffer("count").add_(4)
    model.register_buffer("swapped", torch.zeros(5))
    state.put_back(point)
    assert model.get_buffer("count") == 1
    assert torch.equal(model.get_buffer("swapped"), swapped)
    assert torch.equal(model.get_buffer("mask"), torch.ones(3))


def test_weights_that_are_frozen_since_come_back_too():
    model, optimizer, state = made()
    was = [p.detach().clone() for p in model.parameters()]
    point = state.copied()
    train(model, optimizer, range(2))
    next(model.parameters()).requires_grad_(False)
    state.put_back(point)
    assert same([p.detach() for p in model.parameters()], was)


def test_one_replica_has_nothing_to_take():
    model, optimizer, state = made()
    was = everything(model, optimizer)
    state.take_from(0, Replicas())
    assert same(everything(model, optimizer), was)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_point_is_a_copy_and_serves_another_process(name):
    model, optimizer, state = made(name)
    train(model, optimizer, range(2))
    was = everything(model, optimizer)
    saved = state.state_dict(state.copied())
    other, its, state = made(name)
    train(other, its, range(5))
    point = state.parsed(Entries(saved, "Explorer"))
    for tensor in (*saved["parameters"], *saved["buffers"]):
        tensor.zero_()
    state.put_back(point)
    assert same(everything(other, its), was)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"parameters": []}, "parameters"),
        ({"buffers": [1, 2, 3]}, "buffers.0"),
        ({"state": [{}]}, "state"),
        ({"state": [1] * 6}, r"state.0"),
        ({"counters": [None, {}]}, r"counters.0"),
        ({"shared": 3}, "shared"),
    ],
)
def test_a_damaged_state_is_refused(change, match):
    _, _, state = made()
    saved = {**state.state_dict(state.copied()), **change}
    with pytest.raises(ValueError, match=match):
        state.parsed(Entries(saved, "Explorer"))
