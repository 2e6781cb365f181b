import pytest
import torch

from hdet.replica.optimizer_state import all_state, reset_state, weight_dependent_state
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

    def step(self, closure=None):
