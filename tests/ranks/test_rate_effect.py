"""Rates that differ and move nothing apart: an error, and what only looks like it is none."""

import pytest
import torch
import torch.distributed as dist

import hdet
from tests.helpers import loss_at, small_model
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks


class Hidden(torch.optim.Optimizer):
    """Steps with an optimizer inside, which is nowhere to be seen."""

    def __init__(self, parameters, inner):
        self.steps_with = inner
        super().__init__(parameters, {"lr": 0.01})

    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.steps_with.step(closure)


def _scheduler(kind, optimizer, model):
    if kind == "explorer":
        return hdet.Explorer(optimizer, sync_every=3, model=model)
    return hdet.OneCycleAutoLR(
        optimizer,
        0.01,
        100,
        ensemble_lr_spread_ratio=0.3,
        model_sync_interval=3,
        model=model,
        cycle_momentum=False,
    )


def _train(kind, case):
    """Return what is said, and at which step."""
    model = small_model(norm=True)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, 1e-19 if case == "tiny" else 0.01)
    if case == "hidden":
        optimizer = Hidden(parameters, optimizer)
    scheduler = _scheduler(kind, optimizer, model)
    for t in range(12):
        # The gradient is shared, as under DDP; batch norm sees what differs.
        loss_at(model, t, dist.get_rank())
        optimizer.zero_grad()
        loss = loss_at(model, t, 0)
        loss.backward()
        if case == "zero gradients":
            for p in parameters:
                p.grad = torch.zeros_like(p)
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0
        optimizer.step()
        if case == "averaged" and t % 3 == 2:
            hdet.average_(parameters)
        try:
            scheduler.step(loss)
        except RuntimeError as error:
            return t, str(error)
    return None


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
@pytest.mark.parametrize("size", [2, 3])
def test_rates_that_reach_nothing_are_an_error_at_the_first_sync(kind, size):
    for rank, said in enumerate(run_ranks(_train, size, kind, "hidden")):
        assert said is not None
        assert said[0] == 2
        assert f"[rank {rank} of {size}]" in said[1]
        assert "trained with different rates in parameter groups [0]" in said[1]
        assert "Hidden does not use the `lr` of its parameter groups" in said[1]


@pytest.mark.parametrize("case", ["plain", "zero gradients", "tiny", "averaged"])
def test_what_only_looks_like_it_is_none(case):
    assert run_ranks(_train, 2, "explorer", case) == [None, None]


def test_a_rate_of_zero_moves_nothing_and_is_none():
    assert run_ranks(_warm, 2) == [None, None]


def _warm():
    """A warm-up from a rate of 0, and a second group that is frozen."""
    model = small_model()
    first, *others = model.parameters()
    frozen = torch.nn.Parameter(torch.ones(3).double(), requires_grad=False)
    optimizer = torch.optim.SGD(
        [{"params": [first]}, {"params": others}, {"params": [frozen]}], 1
    )
    ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.001 * max(0, t - 7))
    explorer = hdet.Explorer(optimizer, ramp, sync_every=3, model=model)
    for t in range(15):
        optimizer.zero_grad()
        loss = loss_at(model, t, 0)
        loss.backward()
        optimizer.step()
        try:
            explorer.step(loss)
        except RuntimeError as error:
            return str(error)
    return None
