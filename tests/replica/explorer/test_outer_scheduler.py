"""`Explorer` as torch's schedulers and their users see it."""

import copy
import pickle

import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

import hdet
from tests.helpers import small_model, two_groups


def sgd(lr: float | torch.Tensor = 0.05):
    return torch.optim.SGD(two_groups(small_model()), lr=lr, momentum=0.9)


def rates_of(optimizer):
    return [float(g["lr"]) for g in optimizer.param_groups]


def test_it_is_an_lr_scheduler_with_the_wrapped_ones_counts():
    optimizer = sgd()
    explorer = hdet.Explorer(optimizer, schedulers.ExponentialLR(optimizer, 0.5))
    assert isinstance(explorer, schedulers.LRScheduler)
    assert explorer.optimizer is optimizer
    for step in range(4):
        assert explorer.last_epoch == step
        assert explorer.base_lrs == [0.05, 0.05]
        expected = [0.05 * 0.5**step] * 2
        assert explorer.get_lr() == explorer.get_last_lr() == explorer._last_lr == expected
        optimizer.step()
        explorer.step()


def test_without_a_scheduler_it_counts_by_itself():
    optimizer = sgd()
    explorer = hdet.Explorer(optimizer)
    optimizer.step()
    explorer.step()
    assert explorer.last_epoch == 1
    assert explorer.base_lrs == [0.05, 0.05]
    assert [g["initial_lr"] for g in optimizer.param_groups] == [0.05, 0.05]


def two_schedulers(make, wrap, steps=8):
    """Step two schedulers in turn; return the rates in effect."""
    optimizer = sgd()
    pair = make(optimizer)
    pair = [
        hdet.Explorer(optimizer, s, **w) if w else s for s, w in zip(pair, wrap, strict=True)
    ]
    seen = []
    for _ in range(steps):
        seen.append(rates_of(optimizer))
        optimizer.step()
        for scheduler in pair:
            scheduler.step()
    return seen


PAIRS = {
    "step and exponential": lambda o: [
        schedulers.StepLR(o, 3, 0.1),
        schedulers.ExponentialLR(o, 0.9),
    ],
    "warm-up and cosine": lambda o: [
        schedulers.LinearLR(o, 0.1, total_iters=4),
        schedulers.CosineAnnealingLR(o, 8),
    ],
    "multiplicative and constant": lambda o: [
        schedulers.MultiplicativeLR(o, lambda _: 0.8),
        schedulers.ConstantLR(o, 0.5, 3),
    ],
}
NULL = {"explore": []}
ALONE = {"explore": None, "sync_every": 2}


@pytest.mark.parametrize("wrap", [(NULL, None), (None, NULL), (NULL, NULL), (ALONE, None)])
@pytest.mark.parametrize("name", PAIRS)
def test_two_schedulers_compose_as_without_it(name, wrap):
    assert two_schedulers(PAIRS[name], wrap) == two_schedulers(PAIRS[name], (None, None))


def test_swalr_goes_on_where_the_other_scheduler_stopped():
    ended = []
    for wrapped in (False, True):
        optimizer = sgd()
        first = schedulers.ExponentialLR(optimizer, 0.9)
        second = SWALR(optimizer, swa_lr=0.01, anneal_epochs=3)
        pair = [first, second]
        if wrapped:
            pair = [hdet.Explorer(optimizer, s, explore=[]) for s in pair]
        seen = []
        for step in range(9):
            seen.append(rates_of(optimizer))
            optimizer.step()
            pair[step >= 4].step()
        ended.append(seen)
    assert ended[0] == ended[1]
    assert ended[1][-1] == pytest.approx([0.01, 0.01])


def test_a_rate_set_by_hand_is_the_schedulers_next_start():
    optimizer = sgd()
    explorer = hdet.Explorer(optimizer, schedulers.ExponentialLR(optimizer, 0.5), explore=[])
    optimizer.step()
    explorer.step()
    for group in optimizer.param_groups:
        group["lr"] *= 0.1
    optimizer.step()
    explorer.step()
    assert rates_of(optimizer) == [0.05 * 0.5 * 0.1 * 0.5] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.9, 0.97, 1 / 3])
def test_a_tensor_rate_is_the_wrapped_schedulers_to_the_last_bit(dtype, gamma):
    ended = []
    for wrapped in (False, True):
        optimizer = sgd(torch.tensor(0.05, dtype=dtype))
        scheduler = schedulers.ExponentialLR(optimizer, gamma)
        if wrapped:
            scheduler = hdet.Explorer(optimizer, scheduler, sync_every=2)
        for _ in range(30):
            optimizer.step()
            scheduler.step()
        ended.append((rates_of(optimizer), list(map(float, scheduler.get_last_lr()))))
    assert ended[0] == ended[1]


def test_inside_sequential_lr_it_is_refused_with_the_remedy():
    optimizer = sgd()
    warm_up = schedulers.LinearLR(optimizer, 0.1, total_iters=4)
    cosine = hdet.Explorer(optimizer, schedulers.CosineAnnealingLR(optimizer, 8))
    words = r"Explorer` cannot be a part of SequentialLR.*Explorer\(optimizer, SequentialLR\("
    with pytest.raises(RuntimeError, match=words):
        schedulers.SequentialLR(optimizer, [warm_up, cosine], [4])


def test_inside_chained_scheduler_it_works():
    ended = []
    for wrapped in (False, True):
        optimizer = sgd()
        first = schedulers.ConstantLR(optimizer, 0.1, 4)
        second = schedulers.ExponentialLR(optimizer, 0.9)
        parts = [first, hdet.Explorer(optimizer, second) if wrapped else second]
        chained = schedulers.ChainedScheduler(parts, optimizer=optimizer)
        for _ in range(6):
            optimizer.step()
            chained.step()
        ended.append(rates_of(optimizer))
    assert ended[0] == ended[1]


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_is_refused_in_words(epoch):
    explorer = hdet.Explorer(sgd())
    with pytest.raises(
        ValueError, match=rf"Explorer.step\(epoch={epoch}\)` cannot be set.*leave"
    ):
        explorer.step(epoch=epoch)
    assert explorer.last_epoch == 0


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_of_what_should_rise_is_refused(mode):
    optimizer = sgd()
    plateau = schedulers.ReduceLROnPlateau(optimizer, mode=mode)
    if mode == "min":
        hdet.Explorer(optimizer, plateau)
        return
    with pytest.raises(ValueError, match="must have mode='min', since it is given"):
        hdet.Explorer(optimizer, plateau)


def test_an_explorer_of_an_explorer_is_refused():
    optimizer = sgd()
    with pytest.raises(ValueError, match="must not explore by itself: wrap a plain scheduler"):
        hdet.Explorer(optimizer, hdet.Explorer(optimizer))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_with_one_replica_a_copy_goes_on_like_the_original(copied):
    optimizer = sgd()
    explorer = hdet.Explorer(optimizer, schedulers.ExponentialLR(optimizer, 0.5), explore=[])
    optimizer.step()
    explorer.step()
    other = copied(explorer)
    for scheduler in (explorer, other):
        scheduler.optimizer.step()
        scheduler.step()
        assert rates_of(scheduler.optimizer) == [0.0125, 0.0125]
    assert other.optimizer is not optimizer
