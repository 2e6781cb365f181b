"""A wrapped scheduler's state is tried before it is taken up."""

import math

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from hdet.replica.explorer.scheduler_state import parsed_scheduler_state
from hdet.state import Entries
from tests.helpers import small_model, two_groups
from tests.replica.explorer.test_wrapped_schedule import SCHEDULES

MAKE = {**SCHEDULES, "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1)}


def made(name, steps=0):
    optimizer = torch.optim.SGD(two_groups(small_model()), lr=0.1, momentum=0.9)
    scheduler = MAKE[name](optimizer)
    for _ in range(steps):
        optimizer.step()
        scheduler.step(*([1.0] if name == "plateau" else []))
    return optimizer, scheduler


def parse(name, state):
    optimizer, scheduler = made(name)
    before = repr(scheduler.state_dict()), [g["lr"] for g in optimizer.param_groups]
    try:
        entries = Entries(state, "Explorer")
        return parsed_scheduler_state(entries, state, scheduler, optimizer, [0.1, 0.1])
    finally:
        assert (
            repr(scheduler.state_dict()),
            [g["lr"] for g in optimizer.param_groups],
        ) == before


@pytest.mark.parametrize("steps", [0, 7, 20])
@pytest.mark.parametrize("name", MAKE)
def test_a_good_state_is_returned_as_a_copy(name, steps):
    state = made(name, steps)[1].state_dict()
    parsed = parse(name, state)
    assert repr(parsed) == repr(state)
    mutable = [k for k in state if isinstance(state[k], (list, dict)) and state[k]]
    assert all(parsed[key] is not state[key] for key in mutable)


def test_a_schedule_at_its_end_is_a_good_state():
    state = made("one cycle", 29)[1].state_dict()
    assert parse("one cycle", state)["last_epoch"] == 29


DAMAGED = [
    ("cosine", "T_max", None),
    ("cosine", "T_max", -20),
    ("cosine", "T_max", math.nan),
    ("cosine", "T_max", 10**400),
    ("cosine", "eta_min", 1e308),
    ("cosine", "eta_min", torch.ones(2, 3)),
    ("cosine", "base_lrs", [0.1]),
    ("cosine", "base_lrs", "ab"),
    ("cosine", "last_epoch", 3.5),
    ("cosine", "last_epoch", -7),
    ("cosine", "last_epoch", True),
    ("exponential", "gamma", 1e9),
    ("exponential", "gamma", -0.9),
    ("multi-step", "milestones", [4, 9]),
    ("multi-step", "milestones", {4: "once"}),
    ("plateau", "mode", 3),
    ("plateau", "best", math.nan),
    ("plateau", "patience", "many"),
    ("one cycle", "_schedule_phases", [{"end_step": 3}]),
    ("warm-up, then cosine", "_schedulers", None),
    ("warm-up, then cosine", "_milestones", [6, None]),
    ("lambda", "lr_lambdas", [None]),
]


@pytest.mark.parametrize(("name", "key", "value"), DAMAGED)
def test_a_damaged_state_is_refused_in_words_and_changes_nothing(name, key, value):
    state = made(name, 5)[1].state_dict()
    with pytest.raises(ValueError, match=r"`Explorer.load_state_dict` got .*give what"):
        parse(name, {**state, key: value})


@pytest.mark.parametrize("name", sorted(set(MAKE) - {"chained", "warm-up, then cosine"}))
def test_a_state_without_a_setting_is_refused(name):
    state = made(name, 5)[1].state_dict()
    for key in [k for k in state if not k.startswith("_")]:
        with pytest.raises(ValueError, match=f"without `{key}`"):
            parse(name, {k: v for k, v in state.items() if k != key})


def test_what_torch_does_not_know_is_left_out():
    state = made("cosine", 5)[1].state_dict()
    assert "zzz" not in parse("cosine", {**state, "zzz": 1})


class Own(schedulers.ExponentialLR):
    """Sets an attribute on the way, as people's own schedulers do."""

    def step(self, epoch=None):
        super().step(epoch)
        if self.last_epoch > 2:
            self.late = self.last_epoch


def test_of_other_schedulers_everything_is_kept():
    optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
    scheduler = Own(optimizer, 0.9)
    state = {**scheduler.state_dict(), "late": 5}
    parsed = parsed_scheduler_state(Entries(state, "Explorer"), state, scheduler, optimizer)
    assert parsed["late"] == 5
