import gc
import math
import random
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from schedulefree import SGDScheduleFree
from torch import nn

import hdet
from hdet.replica.explorer.probe import evaluate, evaluation_weights, number
from tests.helpers import batch, loss_at, small_model, weights

Pair = namedtuple("Pair", "x y")
MODES = ["eval", "train"]


def noisy_model():
    """Return a model that draws random numbers and has buffers, with mixed training flags."""
    layers = list(small_model(norm=True).children())
    fixed = nn.BatchNorm1d(8).double().eval()
    return nn.Sequential(*layers[:2], nn.Dropout(0.5).eval(), fixed, *layers[2:])


def snapshot(model):
    """Return everything that a probe could disturb."""
    return {
        "weights": weights(model),
        "buffers": [b.clone() for b in model.buffers()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same(mine, theirs):
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_that_training_sees_is_disturbed(mode, fails):
    model = noisy_model()
    loss_at(model, 0, 0).backward()
    next(model.parameters()).requires_grad_(False)
    list(model.parameters())[1].grad = None
    buffers = list(model.buffers())
    before = snapshot(model)
    during = {}

    def probe():
        during.update(snapshot(model))
        loss = loss_at(model, 1, 0)
        torch.rand(7)
        during["moved"] = [b.clone() for b in model.buffers()]
        if fails:
            raise RuntimeError("in the probe")
        return loss

    if fails:
        with pytest.raises(RuntimeError, match="in the probe"):
            evaluate(probe, model, mode, 0, 0)
    else:
        evaluate(probe, model, mode, 0, 0)
    assert_same(snapshot(model), before)
    assert all(a is b for a, b in zip(model.buffers(), buffers, strict=True))
    assert set(during["training"]) == {mode == "train"}
    assert not during["grad mode"]
    assert not torch.equal(during["random"], before["random"])
    pairs = zip(during["moved"], before["buffers"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs) == (mode == "eval")


def test_a_buffer_that_forward_replaces_comes_back_too():
    class Tracking(nn.Module):
        mean: torch.Tensor

        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, x):
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
            return x - self.mean

    model = Tracking()
    evaluate(lambda: model(torch.ones(3)).mean(), model, "train", 0, 0)
    assert model.mean == 0


def test_a_buffer_that_moves_in_eval_mode_comes_back_too():
    class Counting(nn.Module):
        calls: torch.Tensor

        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x

    model = Counting()
    evaluate(lambda: model(torch.ones(())), model, "eval", 0, 0)
    assert model.calls == 0


def test_a_probe_without_a_model_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    loss, _ = evaluate(lambda: torch.rand(()), None, "eval", 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert 0 <= float(loss) < 1


def draw(seed, sync):
    drawn = evaluate(lambda: torch.rand((), dtype=torch.float64), None, "eval", seed, sync)
    return float(drawn[0])


def test_the_random_numbers_depend_on_seed_and_sync_and_nothing_else():
    first = draw(3, 5)
    with torch.random.fork_rng():
        torch.rand(11)
        assert draw(3, 5) == first
        torch.manual_seed(99)
        assert draw(3, 5) == first
    others = [draw(3, 6), draw(4, 5), draw(5, 3)]
    assert len({first, *others}) == 4


def test_dropout_draws_the_same_mask_at_the_same_sync():
    model = nn.Sequential(nn.Dropout(0.5), small_model())

    def score(sync):
        return float(evaluate(lambda: loss_at(model, 0, 0), model, "train", 0, sync)[0])

    assert score(1) == score(1)
    assert len({score(k) for k in range(5)}) == 5


@pytest.mark.parametrize(
    "value", [0.25, 2, torch.tensor(0.25), torch.tensor([0.25]), torch.tensor([[0.25]])]
)
def test_one_number_is_a_loss_in_whatever_shape(value):
    loss, milliseconds = evaluate(lambda: value, None, "eval", 0, 0)
    assert float(loss) == float(value)
    assert milliseconds > 0
    if isinstance(loss, torch.Tensor):
        assert loss.shape == ()


def test_a_loss_with_a_graph_is_let_go_of():
    model = small_model()
    with torch.enable_grad():
        made = loss_at(model, 0, 0)
    loss, _ = evaluate(lambda: made, model, "eval", 0, 0)
    assert isinstance(loss, torch.Tensor)
    assert not loss.requires_grad


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(2), r"must return one number.*shape \(2,\): give its mean"),
        (torch.ones(0), r"shape \(0,\)"),
        ("0.5", "must return one number, and returned str: return this replica's mean loss"),
        (None, "returned NoneType"),
        ([0.5], "returned list"),
    ],
)
def test_anything_but_one_number_is_an_error_with_the_remedy(value, words):
    model = noisy_model()
    before = snapshot(model)
    with pytest.raises(ValueError, match=words):
        evaluate(lambda: value, model, "eval", 0, 0)
    assert_same(snapshot(model), before)


def test_no_loss_is_nan():
    assert math.isnan(number(None))
    assert number(torch.tensor(0.5)) == number(0.5) == 0.5


# --- the helper that makes a probe from a loader


def seen_by(loader, calls):
    """Return what a loss function is given over so many calls."""
    model = small_model()
    seen = []

    def loss(given, item):
        assert given is model
        seen.append(item)
        return torch.zeros(())

    score = hdet.probe(model, loader, loss)
    for _ in range(calls):
        score()
    return seen


def test_batches_come_in_order_and_start_over_at_the_end():
    assert seen_by([torch.tensor(k) for k in range(3)], 7) == [0, 1, 2, 0, 1, 2, 0]


def test_batches_are_drawn_one_at_a_time():
    drawn = []

    class Loader:
        def __iter__(self):
            for k in range(5):
                drawn.append(k)
                yield torch.tensor(k)

    model = small_model()
    score = hdet.probe(model, Loader(), lambda *_: torch.zeros(()))
    assert not drawn
    for k in range(4):
        score()
        assert drawn == list(range(k + 1))


def test_a_data_loader_may_be_shuffled():
    data = torch.utils.data.TensorDataset(torch.arange(12))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    seen = [x for (x,) in seen_by(loader, 3)]
    assert sorted(torch.cat(seen).tolist()) == list(range(12))
    gc.collect()


@pytest.mark.parametrize("calls", [0, 2])
def test_a_loader_without_batches_is_an_error_at_the_call(calls):
    # A generator gives what it has once: afterwards it is as good as empty.
    loader = (torch.tensor(k) for k in range(calls))
    score = hdet.probe(small_model(), loader, lambda *_: torch.zeros(()))
    for _ in range(calls):
        score()
    with pytest.raises(ValueError, match=r"probe\(loader=.*gave no batch: give it data"):
        score()


NESTED = {
    "tensor": torch.tensor([1.0]),
    "tuple": (torch.tensor([1.0]), torch.tensor([2.0])),
    "list": [torch.tensor([1.0]), [torch.tensor([2.0])]],
    "dict": {"x": torch.tensor([1.0]), "more": {"y": torch.tensor([2.0])}, "n": 3},
    "named tuple": Pair(torch.tensor([1.0]), {"y": torch.tensor([2.0])}),
    "mixed": {"pairs": [Pair(torch.tensor([1.0]), 2)], "name": "a", "none": None},
}


@pytest.mark.parametrize("kind", NESTED)
def test_nested_batches_arrive_as_they_are(kind):
    (seen,) = seen_by([NESTED[kind]], 1)
    assert type(seen) is type(NESTED[kind])
    assert seen == NESTED[kind]
    if kind == "mixed":
        assert type(seen["pairs"][0]) is Pair


@pytest.mark.parametrize("kind", NESTED)
def test_every_tensor_of_a_nested_batch_goes_to_the_models_device(kind):
    model = small_model().to("meta")
    devices = []

    def collect(item):
        if isinstance(item, torch.Tensor):
            devices.append(item.device.type)
        elif isinstance(item, dict):
            [collect(value) for value in item.values()]
        elif isinstance(item, (list, tuple)):
            [collect(value) for value in item]

    def loss(_, item):
        collect(item)
        return torch.zeros(())

    hdet.probe(model, [NESTED[kind]], loss)()
    assert devices
    assert set(devices) == {"meta"}


def test_the_helper_scores_the_model_on_the_batch():
    model = small_model()
    data = [batch(k, 0) for k in range(2)]

    def loss(network, item):
        x, y = item
        return (network(x) - y).square().mean()

    score = hdet.probe(model, data, loss)
    for k in (0, 1, 0):
        assert torch.equal(torch.as_tensor(score()), loss_at(model, k, 0))


def test_what_a_loader_draws_from_anywhere_is_put_back_and_the_same_for_all():
    drawn = []
    # The legacy state is the global one, which is what there is to be looked after.
    numpy: Any = np.random
    states = random.getstate(), numpy.get_state()
    try:
        for place in (1, 2):  # two ranks, whose states stand at different places
            draws = []
            for probed in (False, True):
                random.seed(place)
                numpy.seed(place)
                if probed:
                    score = lambda: drawn.append((random.random(), numpy.rand())) or 1.0
                    evaluate(score, None, "eval", 0, 7)
                draws.append((random.random(), numpy.rand()))
            assert draws[0] == draws[1]
        assert drawn[0] == drawn[1]
    finally:
        random.setstate(states[0])
        numpy.set_state(states[1])


def test_a_loss_of_derivatives_is_scored_and_leaves_no_gradient_behind():
    model = small_model()
    x = torch.linspace(-1, 1, 6).double().reshape(1, 6)

    def loss(m, _):
        point = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(m(point).sum(), point, create_graph=True)
        slope.square().sum().backward(inputs=list(m.parameters()))
        return slope.square().sum()

    with torch.enable_grad():
        expected = loss(model, None).item()
    kept = {p: p.grad for p in model.parameters()}
    found, _ = evaluate(hdet.probe(model, [x], loss), model, "eval", 0, 0)
    assert float(found) == expected
    assert isinstance(found, torch.Tensor)
    assert not found.requires_grad
    assert all(p.grad is kept[p] for p in model.parameters())


# --- optimizers with weights of their own for evaluation


def test_schedule_free_is_scored_by_the_weights_it_would_return_and_trains_on_to_the_bit():
    model, plain = small_model(), small_model()
    optimizers = [SGDScheduleFree(m.parameters(), lr=0.3) for m in (model, plain)]
    for optimizer in optimizers:
        optimizer.train()
    before = seen = []
    for step in range(6):
        for m, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            loss_at(m, step, 0).backward()
            optimizer.step()
        before = weights(model)
        with evaluation_weights(optimizers[0]):
            seen = weights(model)
        assert all(map(torch.equal, weights(model), before))
    optimizers[1].eval()
    expected = weights(plain)
    assert not torch.equal(before[0], expected[0])
    assert all(map(torch.equal, seen, expected))


def test_other_optimizers_are_left_alone_and_a_failing_block_is_undone():
    model = small_model()
    before = weights(model)
    with evaluation_weights(torch.optim.SGD(model.parameters(), lr=0.1)):
        assert all(map(torch.equal, weights(model), before))
    optimizer = SGDScheduleFree(model.parameters(), lr=0.3)
    optimizer.train()
    with pytest.raises(KeyError), evaluation_weights(optimizer):
        raise KeyError
    assert optimizer.param_groups[0]["train_mode"]
