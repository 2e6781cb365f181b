"""One broken replica under DDP: with the hook it stays one, and the next sync heals it."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

import hdet
from tests.helpers import loss_at, small_model, weights
from tests.rank_runner import run_ranks
from tests.ranks.common import AUTO, setup_run

pytestmark = pytest.mark.ranks

STEPS, T = 24, 6


def _gradients(hooked, bad):
    """Return the gradients of one step in which the ranks in `bad` have a NaN loss."""
    model = small_model().float()
    ddp = DistributedDataParallel(model, bucket_cap_mb=1e-4)  # pyright: ignore[reportArgumentType]
    if hooked:
        ddp.register_comm_hook(None, hdet.finite_mean_hook)
    generator = torch.Generator().manual_seed(dist.get_rank())
    loss = ddp(torch.randn(8, 6, generator=generator)).square().mean()
    (loss * (math.nan if dist.get_rank() in bad else 1)).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("size", [2, 3])
def test_where_all_are_finite_it_is_ddps_own_mean_bit_for_bit(size):
    hooked = run_ranks(_gradients, size, True, [])
    for mine, plain in zip(hooked, run_ranks(_gradients, size, False, []), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, plain, strict=True))


def test_the_mean_is_over_those_that_are_finite_and_reaches_all():
    alone = [run_ranks(_gradients, 3, True, bad)[0] for bad in ([1, 2], [0, 1])]
    for gradients in run_ranks(_gradients, 3, True, [1]):
        for mine, first, second in zip(gradients, *alone, strict=True):
            torch.testing.assert_close(mine, (first + second) / 2)


def test_where_none_is_finite_the_gradient_says_so():
    for gradients in run_ranks(_gradients, 2, True, [0, 1]):
        assert all(g.isnan().all() for g in gradients)


def _half():
    model = small_model().float()
    ddp = DistributedDataParallel(model)
    hook = default_hooks.fp16_compress_wrapper(hdet.finite_mean_hook)
    ddp.register_comm_hook(None, hook)
    loss = ddp(torch.ones(2, 6)).mean() * (math.nan if dist.get_rank() == 0 else 1)
    loss.backward()
    return [p.grad for p in model.parameters()]


def test_it_works_inside_a_compressing_hook():
    for gradients in run_ranks(_half, 2):
        assert all(g.isfinite().all() for g in gradients)


# --- whole runs under DDP


def _train(kind, what, bad, at, hooked):
    """Break some replicas at one step of a DDP run; return how it went."""
    rank = dist.get_rank()
    if kind == "explorer":
        model = small_model()
        optimizer = torch.optim.AdamW(model.parameters(), 0.02)
        scheduler = hdet.Explorer(
            optimizer,
            sync_every=T,
            probe=lambda: loss_at(model, 999, 0),
            model=model,
            search=False,
        )
    else:
        model, optimizer, scheduler = setup_run({**AUTO, "model_sync_interval": T})
    ddp = DistributedDataParallel(model)
    if hooked:
        ddp.register_comm_hook(None, hdet.finite_mean_hook)
    masked = []
    for t in range(STEPS):
        if t == at and rank in bad and what == "weights":
            with torch.no_grad():
                next(model.parameters())[0] = math.nan
        optimizer.zero_grad()
        loss = loss_at(ddp, t, rank)
        if t == at and rank in bad and what == "loss":
            loss = loss * math.inf
        loss.backward()
        optimizer.step()
        try:
            scheduler.step(loss)
        except RuntimeError as error:
            return str(error)
        if (t + 1) % T == 0:
            masked.append(scheduler.metrics()["masked"])
    return masked, weights(model), scheduler.metrics()["masked_total"]


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
@pytest.mark.parametrize("what", ["loss", "weights"])
@pytest.mark.parametrize(("bad", "at"), [([1], 2), ([0, 3], 11)])
def test_broken_replicas_are_masked_healed_and_counted(kind, what, bad, at):
    ranks = run_ranks(_train, 4, kind, what, bad, at, True)
    for masked, parameters, total in ranks:
        assert masked == [bad if k == at // T else [] for k in range(STEPS // T)]
        assert all(p.isfinite().all() for p in parameters)
        assert all(torch.equal(a, b) for a, b in zip(parameters, ranks[0][1], strict=True))
        assert total == [int(r in bad) for r in range(4)]


@pytest.mark.parametrize("hooked", [True, False])
def test_without_a_finite_gradient_all_say_what_to_do(hooked):
    bad = [0, 1] if hooked else [1]
    for rank, said in enumerate(run_ranks(_train, 2, "one cycle", "weights", bad, 3, hooked)):
        assert f"[rank {rank} of 2] All 2 replicas hold NaN" in said
        assert "Load the last checkpoint" in said
        assert "hdet.finite_mean_hook" in said


# --- a rank that is gone


def _lost():
    """Rank 0 leaves the group before its third backward pass; return what others notice."""
    group = dist.new_group()
    model = small_model()
    ddp = DistributedDataParallel(model, process_group=group)  # pyright: ignore[reportArgumentType]
    ddp.register_comm_hook(group, hdet.finite_mean_hook)
    for t in range(4):
        if t == 2 and dist.get_rank() == 0:
            del ddp
            dist.destroy_process_group(group)  # pyright: ignore[reportArgumentType]
            return None
        try:
            loss_at(ddp, t, dist.get_rank()).backward()
        except RuntimeError as error:
            return t, str(error)
    return "nothing"


def test_the_loss_of_a_rank_is_an_error_at_once_and_no_wrong_gradient():
    for step, said in run_ranks(_lost, 3)[1:]:
        assert step == 2
        assert "onnection" in said


def _sparse():
    ddp = DistributedDataParallel(torch.nn.Embedding(8, 2, sparse=True))
    ddp.register_comm_hook(None, hdet.finite_mean_hook)
    try:
        ddp(torch.tensor([1, 2])).sum().backward()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


def test_sparse_gradients_are_refused_in_words():
    for rank, said in enumerate(run_ranks(_sparse, 2)):
        assert said is not None
        assert f"[rank {rank} of 2] `finite_mean_hook` does not work with sparse" in said
        assert "`sparse=False`" in said


def _outside():
    """Give everything a group of ranks 0 and 1; return what the third rank is told."""
    nothing: Any = None
    group: Any = dist.new_group([0, 1])
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    calls = {
        "probe": lambda: hdet.probe(model, [1.0], lambda m, b: nothing, group)(),
        "finite_mean_hook": lambda: hdet.finite_mean_hook(group, nothing),
        "OneCycleAutoLR": lambda: hdet.OneCycleAutoLR(
            optimizer, 0.1, 100, ensemble_lr_spread_ratio=0.1, process_group=group
        ),
        "Explorer": lambda: hdet.Explorer(optimizer, process_group=group),
    }
    said = {}
    if dist.get_rank() < 2:
        return said
    for name, call in calls.items():
        try:
            call()
        except ValueError as error:
            said[name] = str(error)
    return said


def test_a_rank_outside_the_group_is_told_so_by_all_that_take_one():
    said = run_ranks(_outside, 3)[2]
    assert sorted(said) == ["Explorer", "OneCycleAutoLR", "finite_mean_hook", "probe"]
    for name, words in said.items():
        assert f"`{name}(process_group=...)` was given a group without this rank" in words
