"""`Explorer` on real processes: faults, the helper for probes, too little to go by."""

import math
import warnings

import pytest
import torch
import torch.distributed as dist

import hdet
from tests.helpers import loss_at, small_model, train_ddp
from tests.rank_runner import run_ranks
from tests.ranks.test_explorer import OPTIMIZERS, T, counted

pytestmark = pytest.mark.ranks


def _broken(kind):
    """Give replica 1 a NaN loss, or all replicas NaN weights, in the middle."""
    rank = dist.get_rank()
    model = small_model(norm=True)
    optimizer = OPTIMIZERS["adamw"](model)
    explorer = hdet.Explorer(
        optimizer, sync_every=T, probe=counted(model)[0], model=model, search=False
    )

    def harm(t):
        if t == 18:
            with torch.no_grad():
                for p in model.parameters():
                    if kind == "all" or rank == 1:
                        p.fill_(math.nan)

    # Without DDP, so that one replica's NaN stays its own.
    for t in range(32):
        harm(t)
        optimizer.zero_grad()
        loss = loss_at(model, t, 0)
        loss.backward()
        if t == 18 or (t == 19 and (kind == "all" or rank == 1)):
            optimizer.zero_grad()
        optimizer.step()
        explorer.step(loss)
    state = [t.detach().clone() for t in model.state_dict().values()]
    return state, explorer.metrics()


@pytest.mark.parametrize("kind", ["one", "all"])
def test_broken_replicas_are_healed_and_counted(kind):
    ranks = run_ranks(_broken, 4, kind)
    for state, metrics in ranks:
        # Batch-norm statistics too, which have seen the NaN of the broken weights.
        assert all(t.isfinite().all() for t in state)
        assert all(map(torch.equal, state, ranks[0][0]))
        assert metrics["masked_total"] == ([1] * 4 if kind == "all" else [0, 1, 0, 0])
        assert metrics["rollbacks"] == (1 if kind == "all" else 0)


def _loaded(drawn):
    model = small_model()
    data = [(torch.full((2, 6), float(k)).double(), {"y": k}) for k in range(3)]
    seen = []

    def loader():
        for item in data:
            drawn.append(1)
            yield item

    class Loader:
        def __iter__(self):
            return loader()

    def loss(_, item):
        x, extra = item
        seen.append((float(x[0, 0]), extra["y"]))
        return model(x).mean()

    probe = hdet.probe(model, Loader() if dist.get_rank() == 0 else [], loss)
    for _ in range(4):
        probe()
    return seen, len(drawn)


def test_the_helper_sends_rank_0s_batches_and_starts_over_at_the_end():
    ranks = run_ranks(_loaded, 3, [])
    assert all(seen == [(0, 0), (1, 1), (2, 2), (0, 0)] for seen, _ in ranks)
    assert [drawn for _, drawn in ranks] == [4, 0, 0]


def _without_loss():
    optimizer = OPTIMIZERS["adamw"](small_model())
    explorer = hdet.Explorer(optimizer, sync_every=2)
    optimizer.step()
    explorer.step()
    optimizer.step()
    explorer.step()


def test_neither_loss_nor_probe_is_an_error_in_words():
    with pytest.raises(AssertionError, match="no loss by any replica, and has no probe"):
        run_ranks(_without_loss, 2)


def _too_many():
    model = small_model()
    optimizer = OPTIMIZERS["adamw"](model)
    explorer = hdet.Explorer(
        optimizer,
        explore=[hdet.lr(), hdet.weight_decay(), hdet.betas(0), hdet.betas(1)],
        sync_every=T,
        search=False,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_ddp(model, optimizer, explorer, dist.get_rank(), range(20))
    metrics = explorer.metrics()
    return [str(w.message) for w in caught], metrics["confounded"], metrics["values"]


def test_eight_hyperparameters_on_four_replicas_degrade_gracefully_and_say_so():
    for messages, confounded, values in run_ranks(_too_many, 4):
        assert len(values) == 8
        assert confounded
        assert sum("8 hyperparameters with 4 replicas" in m for m in messages) == 1
        assert all(math.isfinite(v) for v in values.values())


def _overflowing(rank_of_it):
    """Let Adam's second moment overflow on one replica, or on all; return what came of it."""
    rank = dist.get_rank()
    model = small_model()
    optimizer = OPTIMIZERS["adamw"](model)
    explorer = hdet.Explorer(
        optimizer, sync_every=T, probe=counted(model)[0], model=model, search=False
    )
    for t in range(T * 4):
        optimizer.zero_grad()
        loss_at(model, t, 0).backward()
        if t == T + 1 and rank_of_it in {rank, -1}:
            for p in model.parameters():
                p.grad = torch.full_like(p, 1e30)
        optimizer.step()
        explorer.step(float(t == 0))
    squares = [s["exp_avg_sq"] for s in optimizer.state.values()]
    return max(float(s.max()) for s in squares), explorer.metrics()


@pytest.mark.parametrize("rank_of_it", [1, -1])
def test_a_second_moment_that_overflows_is_healed_or_returned_from(rank_of_it):
    for largest, metrics in run_ranks(_overflowing, 3, rank_of_it):
        assert largest < 1e3
        assert metrics["masked_total"] == ([0, 1, 0] if rank_of_it == 1 else [1, 1, 1])
        assert metrics["rollbacks"] == (0 if rank_of_it == 1 else 1)


def _nan_losses(times):
    model = small_model()
    optimizer = OPTIMIZERS["adamw"](model)
    explorer = hdet.Explorer(optimizer, sync_every=T, model=model)
    for t in range(T * 8):
        optimizer.zero_grad()
        loss = loss_at(model, t, 0)
        loss.backward()
        optimizer.step()
        explorer.step(math.nan if 3 * T <= t < 3 * T + times else loss)
    return explorer.metrics()["rollbacks"]


def test_an_interval_of_nan_losses_everywhere_costs_one_return_and_three_are_an_error():
    assert run_ranks(_nan_losses, 2, 1) == [1, 1]
    with pytest.raises(AssertionError, match="no replica was finite at 3 syncs in a row"):
        run_ranks(_nan_losses, 2, 3 * T)
