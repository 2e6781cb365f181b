"""What `OneCycleAutoLR` makes of losses, and of replicas that break, on real ranks."""

import math
import warnings

import pytest
import torch
import torch.distributed as dist

from tests.helpers import weights
from tests.rank_runner import run_ranks
from tests.ranks.common import AUTO, STEPS, T, setup_run

pytestmark = pytest.mark.ranks

# --- losses


def _accumulated(micro):
    model, optimizer, scheduler = setup_run(AUTO)
    rank = dist.get_rank()
    for t in range(STEPS):
        losses = [3.0 + rank, 1.0 + t % 2]
        if micro:
            for loss in losses:
                scheduler.observe(torch.tensor(loss))
            optimizer.step()
            scheduler.step()
        else:
            optimizer.step()
            scheduler.step(sum(losses) / 2)
    return scheduler.metrics()


def test_micro_batch_losses_make_the_same_mean_as_one_loss_a_step():
    one, many = (
        run_ranks(_accumulated, 2, False)[0],
        run_ranks(_accumulated, 2, True)[0],
    )
    assert many["losses"] == pytest.approx(one["losses"])
    assert many["losses"] == [2.25, 2.75]
    assert many["base_lr"] == pytest.approx(one["base_lr"])


def _never_a_loss():
    _, optimizer, scheduler = setup_run(AUTO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in range(STEPS):
            optimizer.step()
            try:
                scheduler.step()
            except RuntimeError as error:
                return t + 1, str(error), [str(w.message) for w in caught]
    return None


def test_auto_lr_without_a_loss_warns_early_and_is_an_error_on_every_rank():
    for rank, found in enumerate(run_ranks(_never_a_loss, 2)):
        assert found is not None
        step, message, warned = found
        assert step == AUTO["auto_lr_warmup_steps"]
        assert f"[rank {rank} of 2]" in message
        assert "scheduler.step(loss)" in message
        assert len([w for w in warned if "given no loss" in w]) == 1


# --- faults


def _fault(bad_ranks, what, at):
    model, optimizer, scheduler = setup_run(AUTO)
    rank = dist.get_rank()
    masked = []
    for t in range(STEPS):
        # Gradients do not depend on the broken weights: the fault stays on its rank.
        for i, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, math.sin(t + i))
        loss = 1.0 + 0.1 * rank
        if t == at and rank in bad_ranks:
            if what == "loss":
                loss = math.nan
            else:
                with torch.no_grad():
                    first = next(model.parameters())
                    first[0] = math.inf
                    optimizer.state[first]["exp_avg"].fill_(math.nan)
        optimizer.step()
        try:
            scheduler.step(loss)
        except RuntimeError as error:
            return str(error)
        if (t + 1) % T == 0:
            masked.append(scheduler.metrics()["masked"])
    finite = all(bool(w.isfinite().all()) for w in weights(model))
    return masked, finite, scheduler.metrics()["masked_total"]


@pytest.mark.parametrize("what", ["loss", "weights"])
@pytest.mark.parametrize("bad", [[1], [0, 3]])
@pytest.mark.parametrize("at", [3, 20])
def test_a_broken_replica_is_masked_counted_and_healed(bad, what, at):
    for masked, finite, total in run_ranks(_fault, 4, bad, what, at):
        assert masked == [bad if k == at // T else [] for k in range(STEPS // T)]
        assert finite
        assert total == [int(r in bad) for r in range(4)]


def test_all_replicas_broken_is_an_error_on_every_rank():
    for rank, said in enumerate(run_ranks(_fault, 2, [0, 1], "weights", 3)):
        assert f"[rank {rank} of 2] All 2 replicas hold NaN" in said
        assert "Load the last checkpoint" in said
