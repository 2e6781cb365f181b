import pytest
import torch
from dadaptation import DAdaptAdam
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import nn

from hdet.replica.ensemble.restart import restart_moments
from tests.helpers import loss_at, small_model, weights

ADAPTIVE = {
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    "fused": lambda p: torch.optim.AdamW(p, 0.05, fused=True),
    "a tensor for a rate": lambda p: torch.optim.AdamW(p, torch.tensor(0.05)),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.05, amsgrad=True),
    "nadam": lambda p: torch.optim.NAdam(p, 0.05),
    "radam": lambda p: torch.optim.RAdam(p, 0.05),
    "adamax": lambda p: torch.optim.Adamax(p, 0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.05, momentum=0.9, centered=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, 0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, initial_accumulator_value=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.05),
    "schedule-free": lambda p: AdamWScheduleFree(p, 0.05, warmup_steps=2),
    "schedule-free sgd": lambda p: SGDScheduleFree(p, 0.05, warmup_steps=2),
}


def run(model, optimizer, steps):
    if hasattr(optimizer, "train"):
        optimizer.train()
    for t in steps:
        optimizer.zero_grad()
        loss_at(model, t, 0).backward()
        optimizer.step()


@pytest.mark.parametrize("name", ADAPTIVE)
def test_from_then_on_it_steps_as_a_new_optimizer_does(name):
    model, fresh = small_model(), small_model()
    optimizer = ADAPTIVE[name](model.parameters())
    run(model, optimizer, range(5))
    model.load_state_dict(fresh.state_dict())
    held = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    places = [t.data_ptr() for t in held]
    restart_moments(optimizer)
    assert places == [t.data_ptr() for t in held]
    run(model, optimizer, range(10, 14))
    run(fresh, ADAPTIVE[name](fresh.parameters()), range(10, 14))
    for mine, theirs in zip(weights(model), weights(fresh), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


KEPT = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "plain sgd": lambda p: torch.optim.SGD(p, 0.05),
    "rprop": lambda p: torch.optim.Rprop(p, 0.05),
    "muon": lambda p: torch.optim.Muon([x for x in p if x.ndim == 2], 0.05),
}


def snapshot(optimizer):
    return [
        (key, value.clone() if torch.is_tensor(value) else value)
        for state in optimizer.state.values()
        for key, value in state.items()
    ]


@pytest.mark.parametrize("name", KEPT)
def test_state_without_second_moments_stays_as_it_is(name):
    model = small_model()
    optimizer = KEPT[name](list(model.parameters()))
    run(model, optimizer, range(4))
    before = snapshot(optimizer)
    restart_moments(optimizer)
    for (key, old), (_, new) in zip(before, snapshot(optimizer), strict=True):
        assert old is new or torch.equal(old, new), key


def test_momentum_that_is_not_finite_begins_at_zero_and_other_momentum_stays():
    model = small_model()
    optimizer = KEPT["sgd"](list(model.parameters()))
    run(model, optimizer, range(4))
    bad, good = (state["momentum_buffer"] for state in list(optimizer.state.values())[:2])
    bad.view(-1)[0], kept = float("nan"), good.clone()
    restart_moments(optimizer)
    assert not bad.any()
    assert kept.any()
    assert torch.equal(good, kept)


class Both(torch.optim.AdamW):
    """Adam for what has its moments, momentum for the rest; counts in its groups."""

    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        super().step(closure)
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1


def test_in_one_optimizer_each_parameter_is_taken_for_what_it_is():
    adam, plain = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Both([{"params": [adam]}, {"params": [plain]}], 0.1)
    adam.grad = torch.ones(2)
    optimizer.step()
    optimizer.state[plain] = {"momentum_buffer": torch.ones(2), "step": 7}
    optimizer.state[adam]["Q"] = torch.eye(2)
    optimizer.state[adam]["step"] = 7
    restart_moments(optimizer)
    assert optimizer.state[plain]["momentum_buffer"].tolist() == [1, 1]
    assert optimizer.state[plain]["step"] == 7
    assert optimizer.state[adam]["step"] == 0
    assert not optimizer.state[adam]["exp_avg_sq"].any()
    # What it knows besides, such as a basis of its own, is no moment.
    assert torch.equal(optimizer.state[adam]["Q"], torch.eye(2))
    assert [group["step"] for group in optimizer.param_groups] == [0, 1]


def test_a_copy_of_the_weights_follows_them_under_plain_momentum_too():
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
    optimizer.state[weight] = {
        "master_param": torch.tensor([5.0]),
        "momentum_buffer": torch.tensor([2.0]),
    }
    restart_moments(optimizer)
    assert optimizer.state[weight]["master_param"].tolist() == [1.0]
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [2.0]


@pytest.mark.parametrize("make", [Prodigy, DAdaptAdam])
def test_what_finds_its_own_scale_keeps_it(make):
    model = small_model()
    optimizer = make(model.parameters(), lr=1.0)
    run(model, optimizer, range(5))
    scale = optimizer.param_groups[0]["d"]
    restart_moments(optimizer)
    assert optimizer.param_groups[0]["d"] == scale
    assert optimizer.param_groups[0]["k"] == 0
    assert all(not s["exp_avg_sq"].any() and s["step"] == 0 for s in optimizer.state.values())
    run(model, optimizer, range(5, 8))
    assert all(p.isfinite().all() for p in model.parameters())


def test_before_the_first_step_there_is_nothing_to_do():
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    restart_moments(optimizer)
    assert not optimizer.state
