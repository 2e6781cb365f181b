from typing import Any

import pytest
import torch

from hdet.replica.ensemble.optimizer_state import (
    all_state,
    overflows,
    reset_state,
    weight_dependent_state,
)
from tests.helpers import loss_at, small_model


def stepped(make, steps=2):
    model = small_model()
    optimizer = make(list(model.parameters()))
    for t in range(steps):
        optimizer.zero_grad()
        loss_at(model, t, 0).backward()
        optimizer.step()
    return model, optimizer


SHARED = {
    "adamw": lambda p: torch.optim.AdamW(p, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p),
    "decoupled adam": lambda p: torch.optim.Adam(
        p, weight_decay=0.1, decoupled_weight_decay=True
    ),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
}
COUPLED = {
    "adam": (lambda p: torch.optim.Adam(p, weight_decay=0.1), 2),
    "amsgrad": (lambda p: torch.optim.Adam(p, weight_decay=0.1, amsgrad=True), 3),
    "momentum": (lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.1), 1),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, 0.1, weight_decay=0.1), 1),
    "adagrad": (lambda p: torch.optim.Adagrad(p, 0.1, weight_decay=0.1), 1),
}


@pytest.mark.parametrize("name", SHARED)
def test_state_made_from_gradients_alone_is_left_alone(name):
    _, optimizer = stepped(SHARED[name])
    assert weight_dependent_state(optimizer) == []


@pytest.mark.parametrize("name", COUPLED)
def test_state_that_saw_coupled_weight_decay_is_averaged(name):
    make, per_parameter = COUPLED[name]
    model, optimizer = stepped(make)
    found = weight_dependent_state(optimizer)
    shapes = sorted(p.shape for p in model.parameters() for _ in range(per_parameter))
    assert sorted(t.shape for t in found) == shapes


def test_the_tensors_are_the_optimizers_own():
    _, optimizer = stepped(COUPLED["momentum"][0])
    for tensor in weight_dependent_state(optimizer):
        tensor.zero_()
    assert all(not s["momentum_buffer"].any() for s in optimizer.state.values())


def test_only_the_groups_with_weight_decay_count():
    model = small_model()
    decayed, plain = list(model.parameters())[:2], list(model.parameters())[2:]
    optimizer = torch.optim.Adam([{"params": decayed, "weight_decay": 0.1}, {"params": plain}])
    loss_at(model, 0, 0).backward()
    optimizer.step()
    assert len(weight_dependent_state(optimizer)) == 2 * len(decayed)


class AdamWScheduleFree(torch.optim.AdamW):
    """Keeps a second copy of the weights, `z`, under the package's name for it."""

    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("z", p.detach().clone())


def test_copies_of_the_weights_are_averaged_and_their_moments_are_not():
    model, optimizer = stepped(lambda p: AdamWScheduleFree(p, weight_decay=0.1))
    found = weight_dependent_state(optimizer)
    assert [t.shape for t in found] == [p.shape for p in model.parameters()]
    assert all(found[i] is optimizer.state[p]["z"] for i, p in enumerate(model.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_of_1e30_overflows_adams_second_moment_in_any_precision(dtype):
    weight = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = torch.optim.AdamW([weight], lr=0.01)
    assert not overflows(optimizer)
    for gradient in (1.0, 1e30, 1.0):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        assert overflows(optimizer) == (gradient == 1e30 or optimizer.state[weight]["step"] > 2)
    # The weights themselves tell nothing.
    assert weight.isfinite().all()


def test_state_of_any_honest_size_does_not_overflow():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([weight], lr=0.0, momentum=0.9)
    weight.grad = torch.full_like(weight, 1e30)
    optimizer.step()
    optimizer.state[weight]["bits"] = torch.ones(3, dtype=torch.uint8)
    optimizer.state[weight]["none"] = torch.ones(0)
    assert not overflows(optimizer)
    optimizer.state[weight]["momentum_buffer"][1] = float("nan")
    assert overflows(optimizer)


class Shampoo(torch.optim.SGD):
    """Keeps lists and dictionaries in its state, and some that is no parameter's."""

    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["preconditioner"] = [torch.eye(2) * 3, {"right": torch.eye(3) * 5}]
                state["inner"] = {"step": 4, "master_param": p.detach() + 1}
        own: Any = self.state
        own["global"] = {"step": torch.tensor(7.0), "scale": torch.tensor([2.0])}


def test_nested_state_is_found_healed_and_reset():
    model, optimizer = stepped(lambda p: Shampoo(p, 0.1))
    first, count = next(model.parameters()), len(list(model.parameters()))
    found = all_state(optimizer)
    assert len(found) == 3 * count + 1
    assert found[-1].tolist() == [2.0]
    assert [t.shape for t in found[:2]] == [first.shape, (2, 2)]  # in order of the names
    copies = weight_dependent_state(optimizer)
    assert [t.shape for t in copies] == [p.shape for p in model.parameters()]
    reset_state(optimizer)
    state, shared = optimizer.state[first], dict(optimizer.state)["global"]  # pyright: ignore
    assert torch.equal(state["inner"]["master_param"], first)
    assert state["inner"]["step"] == 0
    assert not state["preconditioner"][0].any()
    assert not state["preconditioner"][1]["right"].any()
    assert shared["step"].item() == shared["scale"].item() == 0


def test_nested_state_that_saw_coupled_weight_decay_is_averaged():
    model, optimizer = stepped(lambda p: Shampoo(p, 0.1, weight_decay=0.1))
    count = len(list(model.parameters()))
    assert len(weight_dependent_state(optimizer)) == 3 * count


def test_the_average_of_asgd_follows_the_weights():
    model, optimizer = stepped(lambda p: torch.optim.ASGD(p, 0.1))
    pairs = zip(weight_dependent_state(optimizer), model.parameters(), strict=True)
    assert all(t is optimizer.state[p]["ax"] for t, p in pairs)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, 0.1),
        lambda p: torch.optim.NAdam(p, 0.1),
        lambda p: torch.optim.RAdam(p, 0.1),
        lambda p: torch.optim.Adamax(p, 0.1),
        lambda p: torch.optim.Adagrad(p, 0.1, initial_accumulator_value=0.5),
        lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, centered=True),
        lambda p: torch.optim.Adadelta(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    ],
    ids=["adamw", "nadam", "radam", "adamax", "adagrad", "rmsprop", "adadelta", "sgd"],
)
def test_after_a_reset_the_next_steps_are_those_of_a_new_optimizer(make):
    model, optimizer = stepped(make)
    reset_state(optimizer)
    other = small_model()
    other.load_state_dict(model.state_dict())
    new = make(list(other.parameters()))
    for t in range(2, 5):
        for net, steps in ((model, optimizer), (other, new)):
            steps.zero_grad()
            loss_at(net, t, 0).backward()
            steps.step()
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)
