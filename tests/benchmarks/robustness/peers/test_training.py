"""A schedule times a factor, whatever the schedule and whatever happens to the optimizer."""

import copy

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from benchmarks.robustness.peers.training import ScaledSchedule, with_linear_steps
from tests.benchmarks.robustness.peers.common import problem

KINDS = {
    "one-cycle": lambda o: OneCycleLR(o, 0.1, total_steps=20, cycle_momentum=False),
    "cosine": lambda o: CosineAnnealingLR(o, 20),  # computes each rate from the last
}


def rates(kind, factors, reload_at=None):
    optimizer = SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    schedule = ScaledSchedule(optimizer, KINDS[kind](optimizer))
    found = []
    for step, factor in enumerate(factors):
        schedule.scale(factor)
        if step == reload_at:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_factors_multiply_the_schedule_and_do_not_build_up(kind):
    factors = [1.0, 2.0, 2.0, 0.5, 1.0, 3.0]
    plain = rates(kind, [1.0] * 6)
    expected = [rate * factor for rate, factor in zip(plain, factors, strict=True)]
    assert rates(kind, factors) == pytest.approx(expected)
    assert rates(kind, factors, reload_at=2) == pytest.approx(expected)


def test_only_schedule_free_gets_another_optimizer():
    for kind in ("sgd", "adamw", "muon"):
        assert with_linear_steps(problem(kind, 10)) == problem(kind, 10)
    changed = with_linear_steps(problem("schedule-free", 10))
    assert (changed.optimizer, changed.schedule) == ("adamw", "warmup-cosine")
