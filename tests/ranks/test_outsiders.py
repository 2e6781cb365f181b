"""Tensors that no optimizer steps: averaged where they differ, left alone where they do not."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import hdet
from tests.helpers import WIDTH, batch
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks


class Byol(nn.Module):
    """A student, a teacher that follows it, a frozen base, and a mask of minus infinity."""

    mask: torch.Tensor
    running: torch.Tensor

    def __init__(self):
        super().__init__()
        self.student, self.teacher, self.base = (nn.Linear(WIDTH, 2).double() for _ in range(3))
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(torch.linspace(-0.5, 0.6 + 0.1 * k, p.numel()).view_as(p))
        self.teacher.requires_grad_(False)
        self.base.requires_grad_(False)
        mask = torch.full((3, 3), -math.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("running", torch.zeros(2).double())

    def follow(self):
        for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            t.data = 0.9 * t.data + 0.1 * s.data


def _made(kind, model, **kwargs):
    optimizer = torch.optim.SGD(model.student.parameters(), 0.1)
    if kind == "explorer":
        return optimizer, hdet.Explorer(optimizer, sync_every=4, model=model, **kwargs)
    return optimizer, hdet.OneCycleAutoLR(
        optimizer,
        0.1,
        100,
        model=model,
        ensemble_lr_spread_ratio=0.3,
        model_sync_interval=4,
        **kwargs,
    )


def _train(kind, steps, harm=None, restore=False):
    model = Byol()
    optimizer, scheduler = _made(kind, model)
    rank = dist.get_rank()
    for t in range(steps):
        loss = model.student(batch(t, 0)[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.follow()
        model.running += rank + 1.0
        if harm is not None and t == 5:
            harm(model, rank)
        scheduler.step(loss)
    before = _contents(model)
    with scheduler.converged(restore=restore):
        inside = _contents(model)
    return before, inside, _contents(model), scheduler.metrics()


def _contents(model):
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach().clone() for name, t in named}


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
def test_a_teacher_is_averaged_with_the_weights_that_it_follows(kind):
    ranks = run_ranks(_train, 3, kind, 6)
    base = _contents(Byol())
    for name in ("teacher.weight", "teacher.bias", "student.weight", "running"):
        before = [found[0][name] for found in ranks]
        assert not torch.equal(before[0], before[1])
        for _, inside, after, _ in ranks:
            mean = torch.stack(before).mean(0)
            assert torch.allclose(inside[name], mean, rtol=0, atol=1e-15)
            assert torch.equal(inside[name], ranks[0][1][name])
            assert torch.equal(after[name], inside[name])
    for _, inside, *_ in ranks:
        # Three equal numbers' mean is another number by one bit: these were not sent.
        for name in ("base.weight", "base.bias", "mask"):
            assert torch.equal(inside[name], base[name])


def test_restoring_gives_the_teacher_back_too():
    for before, inside, after, _ in run_ranks(_train, 2, "explorer", 6, None, True):
        assert not torch.equal(before["teacher.weight"], inside["teacher.weight"])
        assert all(torch.equal(after[name], before[name]) for name in before)


def _nan_on_one(model, rank):
    if rank == 1:
        model.running.mul_(math.nan)


def _inf_on_one(model, rank):
    if rank == 1:
        model.mask[2, 0] = math.inf


@pytest.mark.parametrize("harm", [_nan_on_one, _inf_on_one])
def test_a_buffer_that_breaks_on_one_replica_is_healed_beside_a_mask(harm):
    mask = _contents(Byol())["mask"]
    for _, inside, _, metrics in run_ranks(_train, 3, "one cycle", 9, harm):
        assert torch.equal(inside["mask"], mask)
        assert inside["running"].isfinite().all()
        assert metrics["masked_total"] == [0, 1, 0]


def _nan_on_all(model, _):
    model.running.mul_(math.nan)


def test_a_buffer_that_turns_nan_on_all_is_an_error_on_all():
    with pytest.raises(AssertionError, match="All 2 replicas hold NaN"):
        run_ranks(_train, 2, "one cycle", 9, _nan_on_all)


def _average():
    model = Byol()
    model.running.fill_(float(dist.get_rank()))
    masked = hdet.average_(model.student.parameters(), model=model)
    return masked, model.mask, model.running


def test_average_leaves_a_mask_alone_and_averages_statistics():
    for masked, mask, running in run_ranks(_average, 3):
        assert masked == ()
        assert torch.equal(mask, torch.full((3, 3), -math.inf).triu(1))
        assert running.tolist() == [1.0, 1.0]


def _beside():
    model = nn.Linear(WIDTH, 1).double()
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    explorer = hdet.Explorer(optimizer, sync_every=4, model=model, shared_gradients=False)
    for t in range(6):
        loss = model(batch(t, dist.get_rank())[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        explorer.step(loss)
    weight: Any = ema.module.weight
    before = weight.detach().clone()
    with explorer.converged():
        hdet.average_(ema.parameters(), model=ema)
        return before, weight.detach().clone()


def test_an_average_beside_the_model_is_averaged_by_one_line():
    (first, one), (second, other) = run_ranks(_beside, 2)
    assert not torch.equal(first, second)
    assert torch.equal(one, other)
    assert torch.allclose(one, (first + second) / 2, rtol=0, atol=1e-15)


class Quantised(nn.Module):
    """A frozen base of integers, and an adapter; all given to the optimizer."""

    def __init__(self):
        super().__init__()
        base = torch.arange(WIDTH, dtype=torch.uint8)
        self.base = nn.Parameter(base, requires_grad=False)
        self.student = nn.Linear(WIDTH, 1).double()
        with torch.no_grad():
            self.student.weight.fill_(0.1)
            self.student.bias.fill_(0.0)

    def forward(self, x):
        return self.student(x + self.base / 10)


def _quantised(probed):
    model = Quantised()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    probe = hdet.probe(model, [batch(9, 0)], lambda m, b: (m(b[0]) - b[1]).square().mean())
    explorer = hdet.Explorer(
        optimizer, sync_every=2, model=model, probe=probe if probed else None, search=False
    )
    for t in range(8):
        loss = model(batch(t, 0)[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        explorer.step(loss)
    hdet.add_noise_(model)
    with explorer.converged():
        return model.base.detach().clone(), explorer.metrics()["syncs"]


@pytest.mark.parametrize("probed", [False, True])
def test_quantised_weights_are_left_as_they_are(probed):
    for base, syncs in run_ranks(_quantised, 2, probed):
        assert base.tolist() == list(range(WIDTH))
        assert base.dtype == torch.uint8
        assert syncs == 5  # four, and `converged`


# --- two schedulers on one model


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)).double()
        self.critic = nn.Sequential(nn.Linear(WIDTH, 3), nn.BatchNorm1d(3)).double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.linspace(-0.5, 0.6, p.numel()).view_as(p))


def _gan(steps):
    model = Gan()
    parts = {"generator": model.generator, "critic": model.critic}
    optimizers = {n: torch.optim.SGD(m.parameters(), 0.1) for n, m in parts.items()}
    schedulers = {
        name: hdet.Explorer(
            optimizer, sync_every=every, model=model, search=False, shared_gradients=False
        )
        for (name, optimizer), every in zip(optimizers.items(), (3, 100), strict=True)
    }
    for t in range(steps):
        loss = model.critic(model.generator(batch(t, dist.get_rank())[0])).square().mean()
        model.zero_grad()
        loss.backward()
        for name, optimizer in optimizers.items():
            optimizer.step()
            schedulers[name].step(loss)
    return _contents(model), {n: s.metrics()["syncs"] for n, s in schedulers.items()}


def test_a_scheduler_leaves_the_weights_of_another_to_it():
    ranks = run_ranks(_gan, 2, 3)
    assert all(syncs == {"generator": 1, "critic": 0} for _, syncs in ranks)
    differ = [n for n, t in ranks[0][0].items() if not torch.equal(t, ranks[1][0][n])]
    assert {"critic.0.weight", "critic.1.bias", "critic.1.running_mean"} <= set(differ)
    assert all(name.startswith("critic") for name in differ)
