"""What one process can see of `Explorer`; `tests/ranks` has the rest."""

import copy
import io
import math
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

import hdet
from tests.helpers import loss_at, small_model, two_groups, weights

STEPS = 20
SCHEDULES = {
    "none": None,
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 16),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "one cycle": lambda o: schedulers.OneCycleLR(o, [0.1, 0.2], 30),
    "warm-up, then cosine": lambda o: schedulers.SequentialLR(
        o,
        [schedulers.LinearLR(o, 0.1, total_iters=5), schedulers.CosineAnnealingLR(o, 15)],
        [5],
    ),
    "warm restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 6),
}


def adamw(model=None):
    groups = two_groups(model or small_model())
    return torch.optim.AdamW(groups, lr=0.05, weight_decay=0.1)


def explorer(schedule="cosine", explore=None, **settings):
    optimizer = adamw()
    make = SCHEDULES[schedule]
    return hdet.Explorer(optimizer, make and make(optimizer), explore, **settings)


def train(model, optimizer, scheduler, steps=range(STEPS), with_loss=True):
    """Train; return the rates and betas in effect at each step."""
    seen = []
    for t in steps:
        optimizer.zero_grad()
        loss = loss_at(model, t, 0)
        loss.backward()
        seen.append([(float(g["lr"]), g["betas"]) for g in optimizer.param_groups])
        optimizer.step()
        if scheduler is not None:
            scheduler.step(*([loss] if with_loss else []))
    return seen


def everything(probe_calls=None):
    calls = [] if probe_calls is None else probe_calls
    return {
        "explore": [hdet.lr(), hdet.weight_decay(), hdet.betas()],
        "sync_every": 2,
        "probe": lambda: calls.append(1) or 1.0,
    }


# --- one replica


@pytest.mark.parametrize("options", ["defaults", "everything", "nothing explored", "warm-up"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_one_replica_is_the_wrapped_scheduler_bit_for_bit(name, options):
    calls = []
    chosen = {
        "defaults": {},
        "everything": everything(calls),
        "nothing explored": {"explore": [], "sync_every": 2, "probe": lambda: 1.0},
        "warm-up": {"sync_every": 3, "warmup_steps": 4},
    }[options]
    ended = []
    for wrapped in (False, True):
        model = small_model()
        optimizer = adamw(model)
        make = SCHEDULES[name]
        scheduler = make and make(optimizer)
        random = torch.get_rng_state()
        if wrapped:
            scheduler = hdet.Explorer(optimizer, scheduler, model=model, **chosen)
        seen = train(model, optimizer, scheduler, with_loss=wrapped)
        if isinstance(scheduler, hdet.Explorer):
            scheduler.converge()
            last = scheduler.get_last_lr()
            assert last == [float(g["lr"]) for g in optimizer.param_groups]
        assert torch.equal(torch.get_rng_state(), random)
        ended.append((seen, weights(model)))
    assert ended[0][0] == ended[1][0]
    assert all(map(torch.equal, ended[0][1], ended[1][1]))
    assert not calls


def test_a_callable_is_a_factor_at_every_step():
    model = small_model()
    optimizer = adamw(model)
    scheduler = hdet.Explorer(optimizer, lambda step: 1 / (1 + step))
    seen = train(model, optimizer, scheduler, range(4))
    assert [rates[0][0] for rates in seen] == [0.05, 1 / 2 * 0.05, 1 / 3 * 0.05, 1 / 4 * 0.05]


def test_reduce_on_plateau_is_stepped_with_one_replica_too():
    optimizer = adamw()
    plateau = schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    scheduler = hdet.Explorer(optimizer, plateau, sync_every=3)
    seen = []
    for loss in [1.0, 1.0, 1.0, 0.5, 0.5, 3.5, 0.2, 0.2, 0.2]:
        optimizer.step()
        scheduler.step(loss)
        seen.append(optimizer.param_groups[0]["lr"])
    # The means of the intervals are 1, 1.5 and 0.2.
    assert seen == [0.05] * 5 + [0.025] * 4


def test_a_loss_may_be_observed_in_parts():
    scheduler = explorer("none", everything()["explore"])
    scheduler.observe(torch.tensor(1.0))
    scheduler.observe(2.0)
    scheduler.optimizer.step()
    scheduler.step()
    with pytest.raises(ValueError, match="exactly one element"):
        scheduler.step(torch.ones(2))


# --- what is refused


class Prodigy(torch.optim.SGD):
    pass


class DAdaptAdam(torch.optim.SGD):
    pass


class ZeroRedundancyOptimizer(torch.optim.SGD):
    pass


@pytest.mark.parametrize("kind", [Prodigy, DAdaptAdam, ZeroRedundancyOptimizer])
def test_optimizers_in_which_a_rate_means_something_else_are_refused(kind):
    optimizer = kind(small_model().parameters(), 0.1)
    with pytest.raises(ValueError, match=f"Explorer.*{kind.__name__}.*[Uu]se "):
        hdet.Explorer(optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1
    # With nothing to explore there is nothing to refuse.
    hdet.Explorer(optimizer, explore=[]).step()


BAD = {
    "sync_every 0": (
        {"sync_every": 0},
        r"Explorer\(sync_every=0\)` must be.*at least 1: count",
    ),
    "sync_every True": ({"sync_every": True}, r"sync_every=True\)` must be a whole number"),
    "sync_every 1.5": ({"sync_every": 1.5}, r"sync_every=1\.5.*whole number.*: count"),
    "warmup_steps": ({"warmup_steps": -1}, r"warmup_steps=-1\)` must be.*at least 0: count"),
    "probe": ({"probe": 0.5}, r"probe=0\.5\)` must be a callable.*: make one with hdet.probe"),
    "probe_mode": ({"probe_mode": "test"}, r"probe_mode='test'.*\"eval\" or \"train\": leave"),
    "mode": ({"mode": "watch"}, r"mode='watch'.*\"tune\" or \"observe\": leave it out"),
    "freeze_after": ({"freeze_after": 0}, r"freeze_after=0\)` must be.*at least 1: count opti"),
    "no call": ({"explore": [hdet.lr]}, r"explore='lr'\)`.*hdet.lr\(\) rather than hdet.lr\."),
    "twice": ({"explore": [hdet.lr(), hdet.lr()]}, "once: take one of the requests out"),
    "no such group": ({"explore": [hdet.lr(groups=["head"])]}, r"lr\(groups='head'\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named_with_rule_value_and_remedy(name):
    settings, message = BAD[name]
    optimizer = adamw()
    with pytest.raises(ValueError, match=message):
        hdet.Explorer(optimizer, **settings)
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.05]


def test_a_scheduler_of_another_optimizer_is_refused():
    for make in (SCHEDULES["cosine"], schedulers.ReduceLROnPlateau):
        with pytest.raises(ValueError, match=r"scheduler='\w+'\)` must have been made for the"):
            hdet.Explorer(adamw(), make(adamw()))


def test_what_is_no_optimizer_or_scheduler_is_a_type_error():
    wrong: list = [None, small_model(), [0.1]]
    for thing in wrong:
        with pytest.raises(TypeError, match=f"{type(thing).__name__} is not an Optimizer"):
            hdet.Explorer(thing)
    nothing: list = ["cosine", 0.1]
    for thing in nothing:
        kind = type(thing).__name__
        with pytest.raises(TypeError, match=f"callable of the step or None, and got {kind}"):
            hdet.Explorer(adamw(), thing)


STARTS_AT_ZERO = {
    "momentum": lambda: hdet.betas(),
    "weight decay": lambda: hdet.weight_decay(groups=[0]),
}


@pytest.mark.parametrize("name", STARTS_AT_ZERO)
def test_a_value_that_starts_from_0_on_a_scale_without_0_is_explained(name):
    optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"`.*(betas|weight_decay).*start"):
        hdet.Explorer(optimizer, explore=[STARTS_AT_ZERO[name]()])


@pytest.mark.parametrize("name", ["none", "exponential"])
def test_with_one_replica_a_parameter_group_added_later_is_the_schedulers_affair(name):
    scheduler = explorer(name)
    optimizer = scheduler.optimizer
    scheduler.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.5})
    optimizer.step()
    if name == "none":
        scheduler.step()
        assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.05, 0.5]
        assert scheduler.metrics()["base_lr"] == [0.05, 0.05, 0.5]
    else:
        scheduler.step()
        rates = [g["lr"] for g in optimizer.param_groups]
        assert rates == pytest.approx([0.045, 0.045, 0.45])


# --- metrics


def test_the_metrics_that_need_no_sync_are_there_from_the_start():
    scheduler = explorer(**everything())
    documented = re.findall(r"`(\w+)`", str(hdet.Explorer.metrics.__doc__))
    always = documented[: documented.index("losses")]
    assert {"step", "base_lr", "replica_values", "phase", "exclusions"} <= set(always)
    for steps in range(3):
        metrics = scheduler.metrics()
        assert set(always) <= set(metrics) <= set(documented)
        assert metrics["step"] == steps
        assert metrics["syncs"] == 0
        names = ["lr/0", "lr/1", "weight_decay/0", "weight_decay/1", "beta0/0", "beta0/1"]
        assert list(metrics["values"]) == list(metrics["replica_values"]) == names
        rates = scheduler.get_last_lr()
        assert metrics["base_lr"] == rates
        assert metrics["replica_lr"] == [[rate] for rate in rates]
        scheduler.optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("settings", [{}, {"warmup_steps": 10, "search": True}])
def test_the_factor_shown_is_the_one_in_effect(settings):
    metrics = explorer("none", probe=lambda: 1.0, **settings).metrics()
    assert metrics["base_lr"] == [0.05, 0.05]
    assert metrics["values"] == {"lr/0": 1.0, "lr/1": 1.0}


# --- state


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_run_is_the_same_to_the_last_bit(name):
    def setup():
        model = small_model()
        optimizer = adamw(model)
        make = SCHEDULES[name]
        scheduler = hdet.Explorer(optimizer, make and make(optimizer), **everything())
        return model, optimizer, scheduler

    parts = setup()
    train(*parts, range(7))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    expected = train(*parts, range(7, STEPS))
    whole = weights(parts[0]), parts[2].metrics()

    file.seek(0)
    parts = setup()
    parts[1].step()
    for part, state in zip(parts, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert train(*parts, range(7, STEPS)) == expected
    assert all(map(torch.equal, weights(parts[0]), whole[0]))
    assert parts[2].metrics() == whole[1]


def other_groups():
    return hdet.Explorer(torch.optim.AdamW(small_model().parameters()), explore=[])


ILL_FITTING = {
    "another scheduler's own": (
        lambda s: {"last_epoch": 3, "_last_lr": [0.1, 0.1]},
        "a state without `T_max`: it is damaged or belongs to something else",
    ),
    "nothing": (lambda s: None, "None, which must be a dictionary with names for keys"),
    "other format": (
        lambda s: s | {"format": 4},
        "`format` = 4, which must be 1 or 2 or 3.*: load it with the version of hdet that",
    ),
    "other dimensions": (
        lambda s: explorer(explore=[hdet.lr(), hdet.betas()]).state_dict(),
        r"'beta0/0'.*explored here, \['lr/0', 'lr/1'\]: give `explore` as it was",
    ),
    "fewer dimensions": (lambda s: explorer(explore=[]).state_dict(), r"coordinates` = \[\]"),
    "a broken search": (
        lambda s: s | {"exploration": s["exploration"] | {"search": {"phase": "climb"}}},
        r"without `exploration\.search\.log_factor`",
    ),
    "other shapes": (
        lambda s: (
            s | {"averaged": {"exists": True, "weights": {"0": torch.ones(3)}, "buffers": {}}}
        ),
        "1 tensors.*must be of this model",
    ),
    "other groups": (
        lambda s: s | {"schedule": other_groups().state_dict()["schedule"]},
        "1 parameter groups.*must be of 2 parameter groups: make the optimizer as it was",
    ),
}


def plain(state):
    """Return a state with lists in place of tensors, which compare as a whole."""
    tensors = state["averaged"]["weights"]
    lists = {key: tensor.tolist() for key, tensor in tensors.items()}
    return state | {"averaged": state["averaged"] | {"weights": lists}}


def refused(scheduler, damaged, words):
    """Check that loading raises and changes nothing."""
    before = copy.deepcopy((plain(scheduler.state_dict()), scheduler.metrics()))
    rates = [g["lr"] for g in scheduler.optimizer.param_groups]
    with pytest.raises(ValueError, match=words):
        scheduler.load_state_dict(damaged)
    assert (plain(scheduler.state_dict()), scheduler.metrics()) == before
    assert [g["lr"] for g in scheduler.optimizer.param_groups] == rates


def stepped():
    scheduler = explorer()
    for _ in range(5):
        scheduler.optimizer.step()
        scheduler.step(1.0)
    return scheduler


@pytest.mark.parametrize("name", ILL_FITTING)
def test_a_state_that_does_not_fit_changes_nothing_and_says_so(name):
    damage, words = ILL_FITTING[name]
    refused(stepped(), damage(explorer().state_dict()), words)


@pytest.mark.parametrize("key", ["step", "schedule", "averaged", "ensemble"])
def test_a_truncated_state_changes_nothing_and_says_so(key):
    state = explorer().state_dict()
    del state[key]
    refused(stepped(), state, "state_dict")


def test_a_state_of_an_older_version_loads_under_the_names_of_this_one():
    state = explorer(probe=lambda: 1.0).state_dict()
    old: Any = copy.deepcopy(state) | {"format": 2}
    del old["begun"], old["search"], old["exploration"]["held"], old["exploration"]["search"]
    rates = old["exploration"]["rates"]
    rates |= {"searching": True, "confidence": 0.5, "seen": False}
    rates["recovery"] |= {"searching": None}
    for names, new, before in (
        (old["exploration"], "coordinates", "places"),
        (rates, "searching", "climbing"),
        (rates, "confidence", "momentum"),
        (rates, "rollbacks", "explosions"),
        (rates, "exclusions", "cliffs"),
        (rates["recovery"], "searching", "climbing"),
        (rates["recovery"], "implausible", "wild"),
        (rates["recovery"], "new_levels", "accepted"),
        (rates, "recovery", "returns"),
        (old["ensemble"]["interval"], "coordinates", "place"),
    ):
        names[before] = names.pop(new)
    rates["explosions"], rates["returns"]["accepted"] = 2, 1
    again = explorer(probe=lambda: 1.0)
    again.load_state_dict(old)
    assert again.state_dict()["exploration"]["coordinates"] == old["exploration"]["places"]
    # A search of another kind does not go on: the rates are explored from where they were.
    assert again.metrics()["phase"] == "track"
    assert again.state_dict()["exploration"]["search"]["phase"] == "done"
    assert (again.metrics()["rollbacks"], again.metrics()["new_levels"]) == (2, 1)


def test_a_search_that_one_replica_cannot_go_on_with_is_said_to_have_stopped():
    state = explorer(probe=lambda: 1.0).state_dict()
    assert state["exploration"]["search"]["phase"] == "climb"
    state["exploration"]["search"]["steps"] = 20
    state["exploration"]["coordinates"] = dict.fromkeys(("lr/0", "lr/1"), math.log(0.05))
    scheduler = explorer(probe=lambda: 1.0)
    with pytest.warns(UserWarning, match="a search that has not ended.*Load it on several"):
        scheduler.load_state_dict(state)
    assert scheduler.metrics()["base_lr"] == pytest.approx([0.05 * 0.05] * 2)


def test_a_state_of_another_scheduler_changes_nothing_and_says_so():
    refused(explorer("warm-up, then cosine"), explorer("cosine").state_dict(), "state_dict")
