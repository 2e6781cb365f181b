import io
import math

import pytest
import torch
from schedulefree import AdamWScheduleFree
from torch import nn

from hdet.replica.explorer.averaged_weights import AveragedWeights
from hdet.replica.explorer.config import SearchConfig
from hdet.state import Entries
from tests.helpers import loss_at, small_model, two_groups, weights

MIX, SHARE = SearchConfig().probe_mix, SearchConfig().averaging_weight

OPTIMIZERS = {
    "adamw": lambda m: torch.optim.AdamW(two_groups(m), lr=0.05, weight_decay=0.1),
    "sgd": lambda m: torch.optim.SGD(two_groups(m), lr=0.1, momentum=0.9),
    "plain sgd": lambda m: torch.optim.SGD(two_groups(m), lr=0.1),
    "schedule-free": lambda m: AdamWScheduleFree(two_groups(m), lr=0.05),
}


def train(model, optimizer, steps):
    for t in steps:
        optimizer.zero_grad()
        loss_at(model, t, 0).backward()
        optimizer.step()


def load(averaged, state):
    averaged.assign(averaged.parsed(Entries(state, "Explorer")))


def kept(averaged):
    """Return the average in the parameters' order."""
    return list(averaged.state_dict()["weights"].values())


def setup(name="adamw"):
    model = small_model()
    optimizer = OPTIMIZERS[name](model)
    if name == "schedule-free":
        optimizer.train()
    return model, optimizer, AveragedWeights(optimizer)


def in_order(optimizer):
    """Return the parameters in the optimizer's order, which the average keeps to."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def copies(tensors):
    return [t.detach().clone() for t in tensors]


def same(mine, theirs):
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def trained(name="adamw", updates=3):
    """Return model, optimizer and an average that differs from the weights."""
    model, optimizer, averaged = setup(name)
    for k in range(updates):
        train(model, optimizer, range(4 * k, 4 * k + 4))
        averaged.update()
    train(model, optimizer, range(100, 104))
    return model, optimizer, averaged


def test_the_first_update_takes_the_weights_and_later_ones_a_share():
    model, optimizer, averaged = setup()
    expected = None
    for k in range(4):
        train(model, optimizer, range(4 * k, 4 * k + 4))
        averaged.update()
        own = copies(in_order(optimizer))
        if expected is None:
            expected = own
            assert same(kept(averaged), own)
        else:
            pairs = zip(expected, own, strict=True)
            expected = [(1 - SHARE) * mean + SHARE * new for mean, new in pairs]
        torch.testing.assert_close(kept(averaged), expected, rtol=1e-12, atol=0)
        assert averaged.exists


def test_taking_an_average_leaves_the_weights_alone():
    model, optimizer, averaged = setup()
    for _ in range(2):
        train(model, optimizer, range(3))
        before = weights(model)
        averaged.update()
        assert same(weights(model), before)


def test_the_average_is_a_copy_that_training_does_not_reach():
    model, optimizer, averaged = setup()
    averaged.update()
    average = kept(averaged)
    train(model, optimizer, range(3))
    assert same(kept(averaged), average)
    assert not same(weights(model), average)


def test_between_stands_a_share_of_the_way_from_the_average_to_the_weights():
    _, optimizer, averaged = trained()
    average = kept(averaged)
    own = copies(in_order(optimizer))
    with averaged.between():
        inside = copies(in_order(optimizer))
    expected = [a + MIX * (w - a) for a, w in zip(average, own, strict=True)]
    torch.testing.assert_close(inside, expected, rtol=1e-12, atol=1e-15)
    assert not any(torch.equal(a, b) for a, b in zip(inside, own, strict=True))
    assert same(kept(averaged), average)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_afterwards_the_weights_are_what_they_were_to_the_last_bit(dtype):
    model = small_model().to(dtype)
    averaged = AveragedWeights(torch.optim.SGD(model.parameters(), 0.1))
    averaged.update()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.7).add_(0.1)
    before = weights(model)
    with averaged.between():
        assert not same(weights(model), before)
    assert same(weights(model), before)


def test_the_weights_come_back_although_the_block_raises():
    model, _, averaged = trained()
    before = weights(model)
    inside = []

    def block():
        with averaged.between():
            inside.extend(weights(model))
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        block()
    assert not same(inside, before)
    assert same(weights(model), before)


def test_what_the_block_does_to_the_weights_is_undone():
    model, _, averaged = trained()
    before = weights(model)
    with averaged.between(), torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert same(weights(model), before)


def test_before_the_first_update_the_block_sees_the_models_own_weights():
    model, _, averaged = setup()
    before = weights(model)
    with averaged.between():
        assert same(weights(model), before)
    assert same(weights(model), before)
    assert not averaged.exists
    state = averaged.state_dict()
    assert not state["exists"]
    # The same entries as later on, for what loads a checkpoint in place.
    averaged.update()
    assert set(averaged.state_dict()["weights"]) == set(state["weights"])


def test_weights_that_are_kept_are_gone_back_to_and_nothing_else():
    model, optimizer, averaged = setup()
    safe = copies(in_order(optimizer))
    averaged.keep()
    again = AveragedWeights(optimizer)
    load(again, averaged.state_dict())
    train(model, optimizer, range(3))
    trained = copies(in_order(optimizer))
    for one in (averaged, again):
        assert one.exists
        with one.between():  # the probe sees the model's own weights
            assert same(in_order(optimizer), trained)
    averaged.restore()
    assert same(in_order(optimizer), safe)
    again.keep()
    train(model, optimizer, range(3))
    moved = copies(in_order(optimizer))
    again.update()  # the first average is of the weights alone
    assert same(kept(again), moved)
    with again.between():
        assert same(in_order(optimizer), moved)
    train(model, optimizer, range(1))
    own = copies(in_order(optimizer))
    with again.between():
        for now, mine, old in zip(in_order(optimizer), own, moved, strict=True):
            torch.testing.assert_close(now.detach(), old + MIX * (mine - old))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restoring_returns_to_the_average(name):
    _, optimizer, averaged = trained(name)
    average = kept(averaged)
    assert not same(in_order(optimizer), average)
    averaged.restore()
    assert same(in_order(optimizer), average)
    assert same(kept(averaged), average)


@pytest.mark.parametrize("name", ["adamw", "sgd", "plain sgd"])
def test_after_restoring_the_optimizer_trains_as_a_new_one_would(name):
    model, optimizer, averaged = trained(name)
    averaged.restore()
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                assert not value.any(), key
    fresh = small_model()
    fresh.load_state_dict(model.state_dict())
    train(model, optimizer, range(5))
    train(fresh, OPTIMIZERS[name](fresh), range(5))
    assert same(weights(model), weights(fresh))


def test_restoring_before_the_first_update_resets_the_state_only():
    model, optimizer, averaged = setup()
    train(model, optimizer, range(3))
    before = weights(model)
    averaged.restore()
    assert same(weights(model), before)
    assert all(not s["exp_avg"].any() and s["step"] == 0 for s in optimizer.state.values())


def test_a_copy_of_the_weights_in_the_state_becomes_the_restored_weights():
    _, optimizer, averaged = trained("schedule-free")
    parameters = in_order(optimizer)
    assert not any(torch.equal(optimizer.state[p]["z"], p) for p in parameters)
    averaged.restore()
    for p in parameters:
        assert torch.equal(optimizer.state[p]["z"], p)
        assert not optimizer.state[p]["exp_avg_sq"].any()


def test_schedule_free_takes_no_larger_a_step_after_restoring_than_a_new_one():
    model, optimizer, averaged = setup("schedule-free")
    train(model, optimizer, range(200))
    averaged.update()
    averaged.restore()
    fresh = small_model()
    fresh.load_state_dict(model.state_dict())
    anew = OPTIMIZERS["schedule-free"](fresh)
    anew.train()
    moved = []
    for network, its in ((model, optimizer), (fresh, anew)):
        train(network, its, range(1))
        first = in_order(its)[0]
        start = (kept(averaged))[0]
        moved.append(float((its.state[first]["z"] - start).norm()))
    assert moved[0] <= 1.5 * moved[1]


def test_parameters_stay_where_they_are_in_memory():
    model, _, averaged = trained()
    pointers = [p.data_ptr() for p in model.parameters()]
    averaged.update()
    with averaged.between():
        assert [p.data_ptr() for p in model.parameters()] == pointers
    averaged.restore()
    load(averaged, averaged.state_dict())
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_gradients_flow_as_before():
    model, _, averaged = trained()
    with averaged.between():
        assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())
    averaged.restore()
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())


def test_a_state_goes_on_to_the_last_bit():
    model, optimizer, averaged = trained()
    file = io.BytesIO()
    torch.save(averaged.state_dict(), file)
    file.seek(0)
    again = AveragedWeights(optimizer)
    load(again, torch.load(file, weights_only=True))
    for k in range(2):
        train(model, optimizer, range(k, k + 2))
        averaged.update()
        again.update()
        assert same(kept(again), kept(averaged))


def test_a_loaded_state_is_a_copy():
    _, optimizer, averaged = trained()
    given = averaged.state_dict()
    before = copies(given["weights"].values())
    again = AveragedWeights(optimizer)
    load(again, given)
    again.update()
    averaged.update()
    assert same(given["weights"].values(), before)


def test_nothing_averaged_yet_is_a_state_too():
    _, optimizer, averaged = trained()
    load(averaged, AveragedWeights(optimizer).state_dict())
    assert not averaged.exists


def test_a_loaded_average_takes_the_weights_dtype():
    model = small_model().float()
    averaged = AveragedWeights(torch.optim.SGD(model.parameters(), 0.1))
    wide = {str(k): p.double() for k, p in enumerate(model.parameters())}
    load(averaged, {"exists": True, "weights": wide, "buffers": {}})
    assert {t.dtype for t in kept(averaged)} == {torch.float32}


def broken(state, kind):
    """Change one thing of a state, and return the words of its refusal."""
    tensors = state["weights"]
    last = str(len(tensors) - 1)
    if kind == "one fewer":
        del tensors[last]
        return "weights` = '3 tensors', which must be of this model, which has 4"
    if kind == "one more":
        tensors["99"] = torch.ones(7)
        return "weights` = '5 tensors', which must be of this model, which has 4"
    tensors[last], words = {
        "one shape": (torch.ones(7), r"weights.3` = .*must be of shape \(1,\)"),
        "integers": (torch.ones(1, dtype=torch.int64), "real floating-point type"),
        "complex": (torch.ones(1, dtype=torch.complex64), "real floating-point type"),
        "nan": (torch.full((1,), math.nan), "weights.3` = .* must be finite"),
        "not fit for float64": (torch.ones(1).to_sparse(), "dense"),
        "no data": (torch.ones(1, device="meta"), "have data"),
        "no tensor": ([1.0], "must be a tensor"),
    }[kind]
    return words


@pytest.mark.parametrize(
    "kind",
    [
        "one fewer",
        "one more",
        "one shape",
        "integers",
        "complex",
        "nan",
        "not fit for float64",
        "no data",
        "no tensor",
    ],
)
def test_an_average_that_does_not_fit_is_refused_and_changes_nothing(kind):
    _, _, averaged = trained()
    state, before = averaged.state_dict(), kept(averaged)
    words = broken(state, kind)
    with pytest.raises(ValueError, match=words):
        load(averaged, state)
    assert same(kept(averaged), before)


def test_a_saved_number_beyond_the_weights_precision_is_refused():
    weight = nn.Parameter(torch.ones(2))
    averaged = AveragedWeights(torch.optim.SGD([weight], 0.1))
    state = {
        "exists": True,
        "weights": {"0": torch.tensor([1e300, 1.0], dtype=torch.float64)},
        "buffers": {},
    }
    with pytest.raises(ValueError, match="must be finite"):
        load(averaged, state)


def test_a_masks_infinities_load_and_a_broken_statistic_does_not():
    model = small_model()
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]).double())
    averaged = AveragedWeights(torch.optim.SGD(model.parameters(), 0.1), model)
    averaged.update()
    state = averaged.state_dict()
    load(averaged, state)
    averaged.restore()
    assert model.get_buffer("mask").tolist() == [0.0, -math.inf]
    state["buffers"]["0"] = torch.tensor([math.inf, -math.inf]).double()
    with pytest.raises(ValueError, match=r"buffers.0` .* must be finite"):
        load(averaged, state)


def test_quantised_weights_are_left_alone():
    base = nn.Parameter(torch.tensor([1, 200], dtype=torch.uint8), requires_grad=False)
    weight = nn.Parameter(torch.ones(2))
    averaged = AveragedWeights(torch.optim.SGD([base, weight], 0.1))
    averaged.update()
    with torch.no_grad():
        weight.fill_(2.0)
    averaged.update()
    load(averaged, averaged.state_dict())
    averaged.restore()
    assert base.tolist() == [1, 200]
    assert weight.tolist() == pytest.approx([1 + SHARE] * 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_averaged_in_float32_and_stay_half(dtype):
    weight = nn.Parameter(torch.ones(3, dtype=dtype))
    averaged = AveragedWeights(torch.optim.SGD([weight], 0.1))
    averaged.update()
    with torch.no_grad():
        weight.fill_(1.01)
    for _ in range(3):
        averaged.update()
    (average,) = kept(averaged)
    gap = float(weight[0].detach()) - 1
    expected = torch.full((3,), 1 + gap * (1 - (1 - SHARE) ** 3))
    torch.testing.assert_close(average, expected)
    again = AveragedWeights(torch.optim.SGD([weight], 0.1))
    load(again, averaged.state_dict())
    assert same(kept(again), [average])
    averaged.restore()
    assert weight.dtype == dtype
    assert torch.equal(weight.detach(), average.to(dtype))


def test_buffers_return_to_their_last_converged_values_and_survive_a_checkpoint():
    model = small_model(norm=True)
    averaged = AveragedWeights(torch.optim.SGD(model.parameters(), 0.1), model)
    for scale in (1.0, 2.0):
        model(scale * torch.randn(8, 6, dtype=torch.float64))
        averaged.update()
    state = averaged.state_dict()
    expected = copies(b for b in model.buffers() if b.is_floating_point())
    for loaded in (False, True):
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.fill_(float("nan"))
        if loaded:
            load(averaged, state)
        averaged.restore()
        assert same([b for b in model.buffers() if b.is_floating_point()], expected)
    state["buffers"]["0"] = torch.ones(3)
    with pytest.raises(ValueError, match="buffers.0"):
        load(averaged, state)


def test_a_parameter_without_gradient_is_averaged_like_any_other():
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    averaged = AveragedWeights(torch.optim.SGD([frozen], 0.1))
    averaged.update()
    with torch.no_grad():
        frozen.fill_(2.0)
    averaged.update()
    (average,) = kept(averaged)
    torch.testing.assert_close(average, torch.full((2,), 1 + SHARE))


# --- weights out of all proportion


def one_weight(value=1.0):
    weight = nn.Parameter(torch.full((3,), value))
    averaged = AveragedWeights(torch.optim.SGD([weight], 0.1))
    averaged.update()
    return weight, averaged


def put(weight, value):
    with torch.no_grad():
        weight.fill_(value)


@pytest.mark.parametrize("value", [1e28, 12.0, -math.inf, math.nan])
def test_weights_out_of_all_proportion_are_not_taken_in(value):
    weight, averaged = one_weight()
    put(weight, value)
    averaged.update()
    averaged.restore()
    assert weight.tolist() == [1.0] * 3


def test_buffers_beside_such_weights_are_not_kept_either():
    model = small_model(norm=True).float()
    averaged = AveragedWeights(torch.optim.SGD(model.parameters(), 0.1), model)
    averaged.update()
    mean = model.get_buffer("1.running_mean")
    with torch.no_grad():
        mean.fill_(1e20)
        for p in model.parameters():
            p.mul_(1e20)
    averaged.update()
    averaged.restore()
    assert not mean.any()


@pytest.mark.parametrize(("start", "value"), [(1.0, 10.0), (0.0, 1e6), (-1.0, 8.0)])
def test_training_that_moves_far_is_taken_in_at_once(start, value):
    weight, averaged = one_weight(start)
    put(weight, value)
    averaged.update()
    expected = (1 - SHARE) * start + SHARE * value
    torch.testing.assert_close(kept(averaged), [torch.full((3,), expected)])


def test_weights_that_stay_far_away_are_taken_in_at_the_fourth_sync():
    weight, averaged = one_weight()
    put(weight, 100.0)
    for _ in range(3):
        averaged.update()
        assert kept(averaged)[0].tolist() == [1.0] * 3
    # A resumed run counts on.
    load(averaged, averaged.state_dict())
    averaged.update()
    torch.testing.assert_close(kept(averaged), [torch.full((3,), 1 + 99 * SHARE)])


def test_a_state_of_before_there_was_a_count_of_refusals_loads():
    weight, averaged = one_weight()
    state = averaged.state_dict()
    del state["refused"]
    put(weight, 5.0)
    averaged.update()
    load(averaged, state)
    assert kept(averaged)[0].tolist() == [1.0] * 3
