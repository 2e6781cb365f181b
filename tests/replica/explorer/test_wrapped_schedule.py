import io

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

import hdet
from hdet.replica.ensemble.permutation import permutation
from hdet.replica.explorer.checks import collect
from hdet.replica.explorer.exploration import Exploration
from hdet.replica.explorer.replica_values import ReplicaValues
from hdet.replica.explorer.wrapped_schedule import WrappedSchedule
from hdet.state import Entries
from tests.helpers import small_model, two_groups

STEPS = 24
SCHEDULES = {
    "step": lambda o: schedulers.StepLR(o, 5, 0.3),
    "multi-step": lambda o: schedulers.MultiStepLR(o, [4, 9, 9, 15], 0.5),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 20, eta_min=1e-4),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.87),
    "one cycle": lambda o: schedulers.OneCycleLR(o, [0.3, 0.2], 30, cycle_momentum=False),
    "one cycle with momentum": lambda o: schedulers.OneCycleLR(o, [0.3, 0.2], 30),
    "warm-up, then cosine": lambda o: schedulers.SequentialLR(
        o,
        [
            schedulers.LinearLR(o, 0.1, total_iters=6),
            schedulers.CosineAnnealingLR(o, 9),
            schedulers.ExponentialLR(o, 0.7),
        ],
        [6, 15],
    ),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.1, 4), schedulers.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 4, 5, cycle_momentum=False),
    "cyclic with momentum": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 3, mode="exp_range"),
    "warm restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5, 2),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 18, 2.0),
    "lambda": lambda o: schedulers.LambdaLR(o, [lambda t: 0.95**t, lambda t: 1 / (1 + t)]),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.9 + 0.01 * t),
    "linear": lambda o: schedulers.LinearLR(o, 0.2, total_iters=10),
}


def sgd(rates=(0.1, 0.07)):
    groups = two_groups(small_model())
    return torch.optim.SGD(
        [{**g, "lr": lr} for g, lr in zip(groups, rates, strict=True)], momentum=0.9
    )


def rates_of(optimizer):
    return [float(g["lr"]) for g in optimizer.param_groups]


def momenta_of(optimizer):
    return [g["momentum"] for g in optimizer.param_groups]


def alone(make, steps=STEPS):
    """Return rates and momenta at every step of a scheduler that runs by itself."""
    optimizer = sgd()
    scheduler = make(optimizer)
    seen = [(rates_of(optimizer), momenta_of(optimizer))]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        seen.append((rates_of(optimizer), momenta_of(optimizer)))
    return seen


def noam(step, warmup=4000):
    """A factor that rises to 10 over 4,000 steps."""
    return 10 * warmup**0.5 * min((step + 1) ** -0.5, (step + 1) * warmup**-1.5)


def make_schedule(make, rates=(0.1, 0.07)):
    optimizer = sgd(rates)
    return scaled(optimizer, make and make(optimizer))


def scaled(optimizer, scheduler):
    """Return an optimizer, its schedule, and what scales it for five replicas."""
    schedule = WrappedSchedule(optimizer, scheduler)
    dimensions = collect([hdet.lr(2.0)], optimizer)
    exploration = Exploration(dimensions, 5, 0, permutation, search=True, paired=True)
    values = ReplicaValues(optimizer, exploration, schedule.groups)
    values.apply(0)
    return optimizer, schedule, values


def follow(optimizer, schedule, values, steps, losses=None):
    """Go on over `steps`, each as another replica; return the unscaled rates and momenta."""
    seen = []
    for index, step in enumerate(steps):
        values.apply(step % 5)
        optimizer.step()
        values.take_over()
        values.lend()
        schedule.step(step, None if losses is None else losses[index])
        values.follow()
        now = values.unscaled()
        values.apply(step % 5)
        assert rates_of(optimizer) == [row[step % 5] for row in values.rates()]
        assert all(x != y for x, y in zip(rates_of(optimizer), now, strict=True) if y)
        seen.append((now, momenta_of(optimizer)))
    return seen


def load(state, schedule, values):
    schedule.assign(schedule.parsed(Entries(state, "Explorer")))
    values.assign(values.parsed(None), schedule.groups)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_scheduler_gives_the_rates_that_it_gives_alone(name):
    optimizer, schedule, values = make_schedule(SCHEDULES[name])
    first = [held.now for held in schedule.groups], momenta_of(optimizer)
    seen = [first, *follow(optimizer, schedule, values, range(1, STEPS + 1))]
    assert seen == alone(SCHEDULES[name])
    assert len({tuple(rates) for rates, _ in seen}) > 2


@pytest.mark.parametrize("name", SCHEDULES)
def test_where_nothing_is_scaled_a_step_is_the_schedulers_own(name):
    optimizer = sgd()
    schedule = WrappedSchedule(optimizer, SCHEDULES[name](optimizer))
    seen = [(rates_of(optimizer), momenta_of(optimizer))]
    for step in range(1, STEPS + 1):
        optimizer.step()
        schedule.step(step)
        schedule.track()
        seen.append((rates_of(optimizer), momenta_of(optimizer)))
        assert schedule.last_lr() == rates_of(optimizer)
    assert seen == alone(SCHEDULES[name])
    schedule.read()
    assert [held.now for held in schedule.groups] == seen[-1][0]
    peaks = [max(rates[k] for rates, _ in seen) for k in (0, 1)]
    assert [held.highest for held in schedule.groups] == peaks


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stop", [3, 9, 16])
def test_a_run_resumed_midway_goes_on_identically(name, stop):
    optimizer, schedule, values = make_schedule(SCHEDULES[name])
    follow(optimizer, schedule, values, range(1, stop + 1))
    file = io.BytesIO()
    torch.save([schedule.state_dict(), momenta_of(optimizer)], file)
    expected = follow(optimizer, schedule, values, range(stop + 1, STEPS + 1))

    file.seek(0)
    state, momenta = torch.load(file, weights_only=True)
    optimizer, again, values = make_schedule(SCHEDULES[name])
    optimizer.step()
    load(state, again, values)
    for group, momentum in zip(optimizer.param_groups, momenta, strict=True):
        group["momentum"] = momentum
    assert rates_of(optimizer) == [held.now for held in again.groups]
    assert follow(optimizer, again, values, range(stop + 1, STEPS + 1)) == expected
    assert again.groups == schedule.groups


def test_a_loaded_state_sets_the_rates_of_the_step_that_comes_next():
    optimizer, schedule, values = make_schedule(SCHEDULES["cosine"])
    follow(optimizer, schedule, values, range(1, 8))
    fresh, again, scaling = make_schedule(SCHEDULES["cosine"])
    load(schedule.state_dict(), again, scaling)
    assert rates_of(fresh) == values.unscaled() == alone(SCHEDULES["cosine"])[7][0]


def test_a_callable_of_the_step_is_a_factor_on_the_optimizers_own_rates():
    factors = [0.5, 1.0, 0.25, 0.0, 0.125]
    optimizer = sgd()
    parts = scaled(optimizer, lambda step: factors[step])
    assert parts[2].unscaled() == [0.5 * 0.1, 0.5 * 0.07]
    seen = follow(*parts, range(1, 5))
    assert [rates for rates, _ in seen] == [[f * 0.1, f * 0.07] for f in factors[1:]]


def test_a_callable_of_the_step_needs_no_state():
    def factor(step):
        return 1 / (1 + step)

    parts = scaled(sgd(), factor)
    follow(*parts, range(1, 6))
    state = parts[1].state_dict()
    expected = follow(*parts, range(6, 10))
    again = scaled(sgd(), factor)
    load(state, *again[1:])
    assert state["wrapped"] is None
    assert follow(*again, range(6, 10)) == expected


def test_without_a_scheduler_the_rates_are_constant():
    optimizer, schedule, values = make_schedule(None)
    for step in range(1, 5):
        follow(optimizer, schedule, values, [step])
        assert [held.value for held in schedule.groups] == [0.1, 0.07]
        assert [held.share for held in schedule.groups] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["cosine", "exponential", "warm-up, then cosine"])
def test_a_tensor_rate_stays_the_same_tensor_and_is_filled(name):
    tensors = [torch.tensor(lr, dtype=torch.float64) for lr in (0.1, 0.07)]
    optimizer, schedule, values = make_schedule(SCHEDULES[name], tensors)
    mine = [g["lr"] for g in optimizer.param_groups]
    pointers = [t.data_ptr() for t in mine]
    seen = follow(optimizer, schedule, values, range(1, STEPS + 1))
    assert all(g["lr"] is t for g, t in zip(optimizer.param_groups, mine, strict=True))
    assert [t.data_ptr() for t in mine] == pointers
    expected = [rates for rates, _ in alone(SCHEDULES[name])[1:]]
    for (rates, _), theirs in zip(seen, expected, strict=True):
        assert rates == pytest.approx(theirs, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_rate_that_nothing_scales_is_lambda_lrs_to_the_last_bit(dtype):
    def factor(step):
        return 1 / (3 + step)

    ended = []
    for wrapped in (False, True):
        optimizer = sgd([torch.tensor(lr, dtype=dtype) for lr in (0.1, 0.07)])
        schedule = WrappedSchedule(optimizer, factor) if wrapped else None
        plain = None if wrapped else schedulers.LambdaLR(optimizer, factor)
        for step in range(1, 30):
            optimizer.step()
            if schedule is not None:
                schedule.step(step)
            elif plain is not None:
                plain.step()
        ended.append(rates_of(optimizer))
    assert ended[0] == ended[1]


def test_a_tensor_rate_is_filled_by_a_callable_and_by_loading():
    tensors = [torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.07, dtype=torch.float64)]
    optimizer, schedule, values = scaled(sgd(tensors), lambda step: 1 / (1 + step))
    state = schedule.state_dict()
    follow(optimizer, schedule, values, range(1, 4))
    load(state, schedule, values)
    assert all(g["lr"] is t for g, t in zip(optimizer.param_groups, tensors, strict=True))
    assert rates_of(optimizer) == [0.1, 0.07]


def test_a_plateau_is_noticed_from_the_losses_given_and_only_there():
    optimizer = sgd()
    plateau = schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    parts = scaled(optimizer, plateau)
    losses = [1.0, None, 2.0, None, None, 2.0, None, 2.0, 2.0]
    seen = [rates for rates, _ in follow(*parts, range(1, 10), losses)]
    high, half, quarter = [0.1, 0.07], [0.05, 0.035], [0.025, 0.0175]
    assert seen == [high] * 5 + [half] * 3 + [quarter]


@pytest.mark.parametrize(
    ("make", "written"),
    [
        (None, (0.1, 0.07)),
        (lambda o: lambda step: [0.2, 0.5, 1.0, 0.25][step], (0.1, 0.07)),
        (lambda o: schedulers.LinearLR(o, 0.2, total_iters=10), (0.1, 0.07)),
        (lambda o: schedulers.OneCycleLR(o, [0.3, 0.2], 30), (0.3, 0.2)),
        (lambda o: schedulers.CyclicLR(o, 0.0, [0.3, 0.2], cycle_momentum=False), (0.3, 0.2)),
        (lambda o: schedulers.LambdaLR(o, [lambda t: 0.5, noam]), (0.05, 0.7)),
        (lambda o: lambda step: 10.0 if step == 5 else 1.0, (1.0, 0.7)),
    ],
)
def test_a_search_is_around_the_rates_that_the_user_wrote(make, written):
    optimizer = sgd()
    schedule = WrappedSchedule(optimizer, make and make(optimizer))
    schedule.begin_search()
    searched = []
    for step in (1, 2):
        optimizer.step()
        schedule.step(step)
        schedule.read()
        searched.append(tuple(held.value for held in schedule.groups))
    assert searched == [pytest.approx(written, rel=1e-12)] * 2
    schedule.end_search()
    optimizer.step()
    schedule.step(3)
    schedule.read()
    assert [held.value for held in schedule.groups] == rates_of(optimizer)
    assert [held.now for held in schedule.groups] == rates_of(optimizer)


@pytest.mark.parametrize("searching", [True, False])
def test_a_state_knows_whether_the_rates_are_searched(searching):
    schedule = WrappedSchedule(sgd(), None)
    if searching:
        schedule.begin_search()
    again = WrappedSchedule(sgd(), None)
    again.assign(again.parsed(Entries(schedule.state_dict(), "Explorer")))
    peaks = [0.1, 0.07] if searching else [None, None]
    assert [held.peak for held in again.groups] == peaks


def test_a_state_of_before_there_was_a_peak_loads():
    optimizer, schedule, values = make_schedule(SCHEDULES["cosine"])
    follow(optimizer, schedule, values, range(1, 8))
    state = schedule.state_dict()
    for row in state["groups"]:
        del row["peak"]
        row["ended_at"] = 0.05
    _, again, scaling = make_schedule(SCHEDULES["cosine"])
    load(state, again, scaling)
    assert again.groups == schedule.groups


def test_a_search_holds_what_the_user_wrote_and_then_the_schedule_is_followed():
    optimizer = sgd()
    schedule = WrappedSchedule(optimizer, lambda step: [0.2, 0.5, 1.0, 0.25][step])
    schedule.begin_search()
    seen = []
    for step in (1, 2, 3):
        schedule.step(step)
        schedule.read()
        if step == 2:
            schedule.end_search()
        seen.append([held.value for held in schedule.groups])
    assert seen == [[0.1, 0.07], [0.1, 0.07], [0.025, 0.0175]]


def test_what_the_user_wrote_is_known_under_a_warm_up_too():
    optimizer = sgd()
    parts = [schedulers.LinearLR(optimizer, 0.1), schedulers.CosineAnnealingLR(optimizer, 9)]
    schedule = WrappedSchedule(optimizer, schedulers.SequentialLR(optimizer, parts, [5]))
    assert rates_of(optimizer) == pytest.approx([0.01, 0.007])
    assert schedule.written_rates == [0.1, 0.07]


def test_a_group_that_was_added_later_brings_its_own_rate_to_a_callable():
    optimizer = sgd()
    schedule = WrappedSchedule(optimizer, lambda step: 1 / (1 + step))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.4})
    schedule.step(1)
    assert rates_of(optimizer) == [0.05, 0.035, 0.2]
