"""What one process can see of `OneCycleAutoLR`; `tests/ranks` has the rest."""

import warnings

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

import hdet
from tests.helpers import loss_at, small_model, two_groups, weights

STEPS = 20


def adamw():
    return torch.optim.AdamW(two_groups(small_model()), lr=1e-3)


def make(total_steps=STEPS, optimizer=None, **settings):
    optimizer = optimizer or adamw()
    return hdet.OneCycleAutoLR(optimizer, 0.1, total_steps, **settings)


def rates(scheduler, steps):
    """Return the rates in effect at each of `steps` optimizer steps."""
    seen = []
    for _ in range(steps):
        seen.append([float(g["lr"]) for g in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"three_phase": True},
        {"anneal_strategy": "linear", "pct_start": 0.5},
        {"div_factor": 10.0, "final_div_factor": 100.0},
        {"cycle_momentum": False},
    ],
)
@pytest.mark.parametrize(
    "null", [{"ensemble_lr_spread_ratio": 0.0}, {"ensemble_lr_spread_ratio": 0.5}]
)
def test_without_spread_or_replicas_it_is_onecyclelr_bit_for_bit(options, null):
    trained = []
    for scheduler_class, extra in ((OneCycleLR, {}), (hdet.OneCycleAutoLR, null)):
        model = small_model()
        optimizer = torch.optim.AdamW(two_groups(model), lr=1e-3)
        scheduler = scheduler_class(
            optimizer, max_lr=[0.1, 0.2], total_steps=STEPS, **options, **extra
        )
        seen = []
        for t in range(STEPS):
            optimizer.zero_grad()
            loss = loss_at(model, t, 0)
            loss.backward()
            seen.append([(g["lr"], g["betas"]) for g in optimizer.param_groups])
            optimizer.step()
            if isinstance(scheduler, hdet.OneCycleAutoLR):
                scheduler.step(loss)
            else:
                scheduler.step()
        trained.append((seen, weights(model)))
    assert trained[0][0] == trained[1][0]
    assert all(map(torch.equal, trained[0][1], trained[1][1]))


def test_epochs_and_steps_per_epoch_are_accepted_as_by_onecyclelr():
    scheduler = hdet.OneCycleAutoLR(
        torch.optim.SGD(small_model().parameters(), 0.1, momentum=0.9),
        0.1,
        epochs=4,
        steps_per_epoch=5,
    )
    assert scheduler.total_steps == 20


def test_each_replica_starts_at_its_multiple_of_the_schedule():
    for rank in range(3):
        optimizer = torch.optim.AdamW(two_groups(small_model()), lr=1e-3)
        scheduler = hdet.OneCycleAutoLR(
            optimizer,
            0.1,
            STEPS,
            ensemble_lr_spread_ratio=0.2,
            rank=rank,
            world_size=3,
        )
        rho = hdet.multipliers(3, 0.2)[rank].item()
        assert scheduler.get_last_lr() == [lr * rho for lr in make().get_last_lr()]


def test_the_last_permitted_step_does_not_rebound_and_the_next_is_refused():
    scheduler = make()
    seen = rates(scheduler, STEPS)
    assert scheduler.get_last_lr() == seen[-1]
    with pytest.raises(ValueError, match="Tried to step 21 times.*20"):
        scheduler.step()
    assert scheduler.last_epoch == STEPS


@pytest.mark.parametrize("peak", [0.1, torch.tensor(0.1)])
def test_a_tensor_rate_stays_the_same_tensor_and_is_filled(peak):
    tensors = [torch.tensor(1e-3), torch.tensor(1e-3)]
    groups = two_groups(small_model())
    optimizer = torch.optim.AdamW(
        [{**g, "lr": lr} for g, lr in zip(groups, tensors, strict=True)], lr=tensors[0]
    )
    pointers = [g["lr"].data_ptr() for g in optimizer.param_groups]
    scheduler = hdet.OneCycleAutoLR(optimizer, peak, STEPS)
    plain = make()
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        plain.optimizer.step()
        plain.step()
        assert [g["lr"].data_ptr() for g in optimizer.param_groups] == pointers
        assert [float(g["lr"]) for g in optimizer.param_groups] == pytest.approx(
            plain.get_last_lr(), rel=1e-6
        )


BAD = {
    "spread below 0": ({"ensemble_lr_spread_ratio": -0.1}, r"ratio=-0\.1.*\[0, 1\)"),
    "spread of 1": ({"ensemble_lr_spread_ratio": 1.0}, r"\[0, 1\).*1/9"),
    "spread NaN": ({"ensemble_lr_spread_ratio": float("nan")}, r"\[0, 1\)"),
    "interval 0": ({"model_sync_interval": 0}, "interval=0.*at least 1"),
    "interval fraction": ({"model_sync_interval": 2.5}, "whole number"),
    "sigma": ({"loss_scale": 0.0}, "loss_scale=0.0.*above 0"),
    "beta of 1": ({"momentum_of_lr": 1.0}, r"momentum_of_lr=1\.0.*\[0, 1\)"),
    "beta below 0": ({"momentum_of_lr": -0.1}, r"\[0, 1\)"),
    "lambda": ({"lr_of_lr": -1.0}, "lr_of_lr=-1.0.*at least 0"),
    "late warm-up": (
        {
            "enable_auto_lr": True,
            "ensemble_lr_spread_ratio": 0.1,
            "auto_lr_warmup_steps": 20,
        },
        "warmup_steps=20.*below the run's 20 steps.*try",
    ),
    "negative warm-up": ({"auto_lr_warmup_steps": -1}, "at least 0"),
    "auto-LR without spread": (
        {"enable_auto_lr": True, "auto_lr_warmup_steps": 5},
        "enable_auto_lr=True.*ensemble_lr_spread_ratio",
    ),
    "rank": ({"rank": 4, "world_size": 4}, r"rank=4.*\[0, 4\)"),
    "world size": ({"world_size": 0}, "world_size=0.*at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named_with_rule_value_and_remedy(name):
    settings, message = BAD[name]
    optimizer = torch.optim.AdamW(two_groups(small_model()), lr=1e-3)
    with pytest.raises(ValueError, match=message):
        make(optimizer=optimizer, **settings)
    assert [g["lr"] for g in optimizer.param_groups] == [1e-3, 1e-3]


def test_what_is_no_optimizer_is_a_type_error():
    with pytest.raises(TypeError, match="not an Optimizer"):
        hdet.OneCycleAutoLR(None, 0.1, 10)  # pyright: ignore[reportArgumentType]


class Prodigy(torch.optim.SGD):
    pass


class ZeroRedundancyOptimizer(torch.optim.SGD):
    pass


@pytest.mark.parametrize("kind", [Prodigy, ZeroRedundancyOptimizer])
def test_optimizers_in_which_a_spread_means_something_else_are_refused(kind):
    parameters = list(small_model().parameters())
    with pytest.raises(ValueError, match=kind.__name__):
        hdet.OneCycleAutoLR(kind(parameters, 0.1, 0.9), 0.1, 10, ensemble_lr_spread_ratio=0.1)
    hdet.OneCycleAutoLR(kind(parameters, 0.1, 0.9), 0.1, 10)


def test_promised_replicas_without_a_process_group_are_an_error_at_the_first_step():
    scheduler = make(ensemble_lr_spread_ratio=0.1, world_size=4)
    with pytest.raises(RuntimeError, match="world_size=4.*init_process_group"):
        scheduler.step(1.0)


def test_a_parameter_group_added_later_is_refused():
    scheduler = make()
    scheduler.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="2 parameter groups and the optimizer now has 3"):
        scheduler.step()


def test_state_is_plain_and_resumes_a_single_process_exactly(tmp_path):
    scheduler = make()
    rates(scheduler, 7)
    torch.save(scheduler.state_dict(), tmp_path / "s.pt")
    expected = rates(scheduler, STEPS - 7)
    resumed = make()
    resumed.load_state_dict(torch.load(tmp_path / "s.pt", weights_only=True))
    assert rates(resumed, STEPS - 7) == expected


DAMAGED = {
    "other length": (
        lambda s: s | {"total_steps": 99},
        "`total_steps` = 99, which must be 20.*: make the scheduler with total_steps=99",
    ),
    "beyond the end": (lambda s: s | {"last_epoch": 21}, r"last_epoch` = 21.*in \[0, 20\]"),
    "other groups": (
        lambda s: s | {"controller": s["controller"] | {"velocities": [0.0]}},
        "controller.velocities.* must have 2 items, and has 1",
    ),
    "truncated": (lambda s: {"last_epoch": 3}, "a state without `total_steps`"),
    "truncated inside": (
        lambda s: s | {"ensemble": s["ensemble"] | {"interval": {"place": [0]}}},
        r"without `ensemble\.interval\.shape`",
    ),
    "nothing at all": (lambda s: None, "None, which must be a dictionary"),
    "another scheduler's own": (
        lambda s: {"last_epoch": 3, "_last_lr": [0.1]},
        "without `total_steps`: it is damaged or belongs to something else",
    ),
    "no such phase": (
        lambda s: s | {"_schedule_phases": [{**p, "end_lr": 1} for p in s["_schedule_phases"]]},
        r"_schedule_phases\.0\.end_lr` = 1, which must be text",
    ),
    "phases of another run": (
        lambda s: s | {"_schedule_phases": s["_schedule_phases"][:1] * 2},
        "must be 2 or 3 phases that end with the last step",
    ),
    "no such annealing": (
        lambda s: s | {"_anneal_func_type": "log"},
        "must be one of cos, linear",
    ),
    "a rate of a trillion": (
        lambda s: s | {"controller": s["controller"] | {"base_lrs": [1e12, 0.1]}},
        "controller.base_lrs.0` = 1000000000000.0",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_state_that_does_not_fit_changes_nothing(name):
    scheduler = make()
    rates(scheduler, 5)
    before, change = scheduler.state_dict(), DAMAGED[name]
    with pytest.raises(ValueError, match=change[1]):
        scheduler.load_state_dict(change[0](before))
    assert scheduler.state_dict() == before


def plain(steps=STEPS, **settings):
    return OneCycleLR(adamw(), [0.1, 0.2], steps, **settings)


SHAPES = {
    "other phases": {"pct_start": 0.8, "anneal_strategy": "linear"},
    "three phases": {"three_phase": True},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("source", ["OneCycleLR", "OneCycleAutoLR"])
def test_the_schedules_shape_is_that_of_the_state(source, shape):
    saved = (
        plain() if source == "OneCycleLR" else hdet.OneCycleAutoLR(adamw(), [0.1, 0.2], STEPS)
    )
    rates(saved, 5)
    resumed = hdet.OneCycleAutoLR(adamw(), [0.1, 0.2], STEPS, **SHAPES[shape])
    resumed.load_state_dict(saved.state_dict())
    assert resumed.last_epoch == 5
    assert resumed.get_last_lr() == saved.get_last_lr()
    assert rates(resumed, STEPS - 5) == rates(saved, STEPS - 5)


def test_one_cycle_lr_takes_over_a_state_of_this_one():
    saved = hdet.OneCycleAutoLR(adamw(), [0.1, 0.2], STEPS, pct_start=0.5)
    rates(saved, 5)
    resumed = plain()
    resumed.load_state_dict(saved.state_dict())
    # Like every scheduler of torch it leaves the optimizer's rates as they are until its step.
    assert rates(resumed, STEPS - 6)[1:] == rates(saved, STEPS - 6)[1:]


def test_a_state_of_the_first_format_loads_with_the_constructors_shape():
    saved = make(pct_start=0.4)
    rates(saved, 7)
    state = saved.state_dict()
    first = {
        "format": 1,
        **{key: state[key] for key in ("last_epoch", "total_steps", "seed", "ensemble")},
        **state["controller"],
    }
    resumed = make(pct_start=0.4)
    resumed.load_state_dict(first)
    assert rates(resumed, STEPS - 7) == rates(saved, STEPS - 7)


def test_cycled_momenta_need_a_scheduler_that_was_made_with_them():
    saved, resumed = plain(), make(cycle_momentum=False)
    for group in resumed.optimizer.param_groups:
        group.pop("max_momentum", None)
    with pytest.raises(ValueError, match="make the scheduler with cycle_momentum=True"):
        resumed.load_state_dict(saved.state_dict())


def test_an_epoch_is_refused_in_words():
    scheduler = make()
    with pytest.raises(
        ValueError, match=r"OneCycleAutoLR.step\(epoch=3\)` cannot be set.*leave"
    ):
        scheduler.step(epoch=3)  # pyright: ignore[reportArgumentType]
    assert scheduler.last_epoch == 0


def test_it_warns_of_nothing_in_a_plain_loop():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = make()
        rates(scheduler, STEPS)
        scheduler.converge()
        assert scheduler.metrics()["syncs"] == 0
