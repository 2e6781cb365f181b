"""What others change between two steps is a factor on what the replicas explore."""

import math

import pytest
import torch

import hdet
from hdet.replica.ensemble.group_values import own_rates
from hdet.replica.ensemble.permutation import permutation
from hdet.replica.explorer.checks import collect
from hdet.replica.explorer.exploration import Exploration
from hdet.replica.explorer.held_schedule import HeldSchedule
from hdet.replica.explorer.replica_values import ReplicaValues
from hdet.state import Entries
from tests.helpers import small_model, two_groups

REPLICAS = 3
LOW, HIGH = 0, 2


class Thing:
    p = 0.2
    shift = 1.0
    temperature = 1.0


def optimizer_of(lr: float | torch.Tensor = 0.1):
    groups = two_groups(small_model())
    lr = lr.clone() if isinstance(lr, torch.Tensor) else lr
    return torch.optim.AdamW(groups, lr=lr, weight_decay=0.1, betas=(0.9, 0.99))


def values_of(optimizer, requests):
    own_rates(optimizer)
    dimensions = collect(requests, optimizer)
    exploration = Exploration(dimensions, REPLICAS, 0, permutation, search=False, paired=True)
    groups = [HeldSchedule(float(g["lr"]), float(g["lr"])) for g in optimizer.param_groups]
    return ReplicaValues(optimizer, exploration, groups)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64)])
@pytest.mark.parametrize("replica", range(REPLICAS))
def test_a_factor_on_a_replicas_rate_is_one_on_the_schedule(lr, replica):
    optimizer = optimizer_of(lr)
    values = values_of(optimizer, [hdet.lr()])
    values.apply(replica)
    optimizer.param_groups[0]["lr"] *= 0.5
    values.take_over()
    assert values.taken_over
    assert values.unscaled() == pytest.approx([0.05, 0.1], rel=1e-6)
    assert values.base_rates() == pytest.approx([0.05, 0.1], rel=1e-6)


def test_what_nobody_changed_stays_the_same_to_the_last_bit():
    optimizer = optimizer_of(0.1)
    values = values_of(optimizer, [hdet.lr(), hdet.weight_decay(), hdet.betas()])
    before = values.shared()
    for step in range(20):
        values.apply(step % REPLICAS)
        values.take_over()
        values.lend()
        values.follow()
    assert values.shared() == before
    assert not values.taken_over


def test_others_find_the_unscaled_values():
    thing = Thing()
    optimizer = optimizer_of(0.1)
    values = values_of(
        optimizer, [hdet.lr(), hdet.weight_decay(), hdet.betas(), hdet.attribute(thing, "p")]
    )
    values.apply(HIGH)
    group = optimizer.param_groups[0]
    assert group["weight_decay"] != 0.1
    values.lend()
    for group in optimizer.param_groups:
        assert (group["lr"], group["weight_decay"], group["betas"]) == (0.1, 0.1, (0.9, 0.99))
    assert thing.p == 0.2


def test_a_weight_decay_schedule_is_followed():
    optimizer = optimizer_of()
    values = values_of(optimizer, [hdet.weight_decay()])
    rows = values.values()
    for share in (0.5, 0.25, 2.0):
        values.apply(LOW)
        for group in optimizer.param_groups:
            group["weight_decay"] *= share
        values.take_over()
    assert values.unscaled() == pytest.approx([0.025, 0.025])
    assert values.values()[0] == pytest.approx([0.25 * value for value in rows[0]])


def test_a_weight_decay_of_0_is_0_on_every_replica_and_comes_back():
    optimizer = optimizer_of()
    values = values_of(optimizer, [hdet.weight_decay(groups=[0])])
    rows = values.values()
    values.apply(HIGH)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    values.take_over()
    values.apply(HIGH)
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    assert values.values() == [[0.0] * REPLICAS]
    optimizer.param_groups[0]["weight_decay"] = 0.1
    values.take_over()
    assert values.values() == [pytest.approx(rows[0])]


def test_cycled_momenta_are_followed_on_the_scale_of_the_odds():
    optimizer = optimizer_of()
    values = values_of(optimizer, [hdet.betas(groups=[0])])
    values.apply(HIGH)
    values.lend()
    optimizer.param_groups[0]["betas"] = (0.8, 0.99)
    values.follow()
    assert values.base_values() == pytest.approx([0.8])
    low, middle, high = sorted(values.values()[0])
    assert middle == pytest.approx(0.8)
    odds = [x / (1 - x) for x in (low, middle, high)]
    assert odds[2] / odds[1] == pytest.approx(1.3)
    assert odds[1] / odds[0] == pytest.approx(1.3)


def test_an_attribute_on_a_linear_scale_is_shifted():
    thing = Thing()
    request = hdet.attribute(thing, "shift", spread=0.5, bounds=(-5, 5), scale="linear")
    values = values_of(optimizer_of(), [request])
    values.apply(HIGH)
    before = thing.shift
    thing.shift += 2
    values.take_over()
    assert values.base_values() == [3.0]
    values.apply(HIGH)
    assert thing.shift == pytest.approx(before + 2)


def test_an_attribute_that_is_no_number_any_more_is_an_error_with_its_name():
    thing = Thing()
    values = values_of(optimizer_of(), [hdet.attribute(thing, "temperature")])
    thing.temperature = "warm"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="attribute 'temperature', which was a number and now"):
        values.take_over()


def test_a_group_whose_rate_is_not_explored_is_never_touched():
    optimizer = optimizer_of()
    values = values_of(optimizer, [hdet.lr(groups=[0])])
    optimizer.param_groups[1]["lr"] = "not read"
    for replica in range(REPLICAS):
        values.apply(replica)
        values.take_over()
        values.lend()
        values.follow()
    assert optimizer.param_groups[1]["lr"] == "not read"


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_a_tensor_that_was_replaced_is_noticed_too(lr):
    optimizer = optimizer_of(lr)
    values = values_of(optimizer, [hdet.lr(groups=[0])])
    values.apply(HIGH)
    written = float(optimizer.param_groups[0]["lr"])
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5 * written)
    values.take_over()
    assert values.unscaled() == pytest.approx([0.05])


# --- what the replicas agree on


def applied(set_by_others, steps=1):
    """Return the values of all replicas after others have done the same on each of them."""
    ensemble = []
    for replica in range(REPLICAS):
        optimizer = optimizer_of()
        values = values_of(optimizer, [hdet.lr(groups=[0])])
        for _ in range(steps):
            values.apply(replica)
            set_by_others(optimizer.param_groups[0])
            values.take_over()
        ensemble.append(values)
    return ensemble


def scale(group):
    group["lr"] *= 0.9


def overwrite(group):
    group["lr"] = 0.04


def test_rounding_is_settled_and_no_reason_to_warn():
    ensemble = applied(scale, steps=50)
    rows = [values.shared() for values in ensemble]
    for values in ensemble:
        assert values.agree(rows) == []
        assert values.shared() == rows[0]
    assert rows[0][0] == pytest.approx(0.1 * 0.9**50, rel=1e-12)


def test_a_rate_that_was_set_once_is_the_base_rate_from_then_on():
    ensemble = applied(overwrite)
    rows = [values.shared() for values in ensemble]
    for values in ensemble:
        assert values.agree(rows) == []
        assert values.unscaled() == pytest.approx([0.04])
        assert sorted(values.rates()[0]) == pytest.approx([0.04 / 1.3, 0.04, 0.04 * 1.3])


def test_a_rate_that_is_set_again_after_a_sync_is_named():
    ensemble = applied(overwrite)
    for named in ([], ["lr/0"], ["lr/0"]):
        rows = [values.shared() for values in ensemble]
        for replica, values in enumerate(ensemble):
            assert values.agree(rows) == named
            assert values.unscaled() == pytest.approx([0.04])
            values.apply(replica)
            overwrite(values._optimizer.param_groups[0])
            values.take_over()


# --- state


def test_a_state_brings_back_what_others_have_made_of_the_values():
    optimizer = optimizer_of()
    values = values_of(optimizer, [hdet.lr(), hdet.weight_decay()])
    values.apply(HIGH)
    optimizer.param_groups[0]["weight_decay"] *= 0.5
    values.take_over()
    fresh = values_of(optimizer_of(), [hdet.lr(), hdet.weight_decay()])
    groups = [HeldSchedule(0.1, 0.1), HeldSchedule(0.1, 0.1)]
    fresh.assign(fresh.parsed(Entries(values.state_dict(), "Explorer")), groups)
    assert fresh.values() == values.values()
    assert fresh.taken_over


@pytest.mark.parametrize("value", [None, math.nan, -0.1, "0.1"])
def test_a_damaged_state_is_refused(value):
    values = values_of(optimizer_of(), [hdet.weight_decay(groups=[0])])
    state = {"taken_over": False, "values": {"weight_decay/0": value}}
    with pytest.raises(ValueError, match="`values.weight_decay/0`"):
        values.parsed(Entries(state, "Explorer"))


# --- a step between syncs


def test_a_step_looks_at_this_replicas_values_alone():
    optimizer = optimizer_of()
    values = values_of(optimizer, [hdet.lr(), hdet.weight_decay()])
    values.apply(HIGH)
    factors = [row[HIGH] for row in values.values()]
    values._exploration.values = lambda *_: pytest.fail("all replicas")  # pyright: ignore
    for step in range(3):
        values.lend()
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 2)
        values.follow()
        rates = [0.1 / (step + 2) * factor for factor in factors[:2]]
        assert [group["lr"] for group in optimizer.param_groups] == rates
        assert values.own_rates() == rates
        assert [group["weight_decay"] for group in optimizer.param_groups] == factors[2:]


def test_a_rate_that_is_a_tensor_is_written_only_where_it_changes():
    optimizer = optimizer_of(torch.tensor(0.1, dtype=torch.float64))
    values = values_of(optimizer, [hdet.lr()])
    values.apply(LOW)
    tensor = optimizer.param_groups[0]["lr"]
    version = tensor._version
    for rate in (0.1, 0.1, 0.05):
        values.lend()
        optimizer.param_groups[0]["lr"] = rate
        values.follow()
        assert optimizer.param_groups[0]["lr"] is tensor
        assert (tensor._version == version) == (rate == 0.1)
