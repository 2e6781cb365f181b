"""A broken state of a scheduler is refused in words and changes nothing, or is a good one."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import CosineAnnealingLR

import hdet
from tests.helpers import loss_at, small_model, two_groups
from tests.rank_runner import run_ranks
from tests.state_mutations import mutations, same

pytestmark = pytest.mark.ranks

T = 2


def _made(kind):
    model = small_model()
    optimizer = torch.optim.AdamW(two_groups(model), lr=0.01, weight_decay=0.1)
    if kind == "explorer":
        explore = [hdet.lr(groups=[0]), hdet.weight_decay(groups=[0])]
        cosine = CosineAnnealingLR(optimizer, 10_000)
        return optimizer, model, hdet.Explorer(optimizer, cosine, explore, sync_every=T)
    options = {"auto_lr_warmup_steps": 2, "enable_auto_lr": True, "loss_scale": 0.1}
    return (
        optimizer,
        model,
        hdet.OneCycleAutoLR(
            optimizer,
            0.01,
            10_000,
            ensemble_lr_spread_ratio=0.1,
            model_sync_interval=T,
            **options,
        ),
    )


def _attacked(kind):
    """Load every broken state; return how many were refused, and what went wrong."""
    rank = dist.get_rank()
    optimizer, model, scheduler = _made(kind)

    def train(steps):
        for t in range(steps):
            optimizer.zero_grad()
            loss_at(model, t, 0).backward()
            optimizer.step()
            scheduler.step(loss_at(model, t, rank).detach())

    train(5)
    with scheduler.converged():
        good = copy.deepcopy(scheduler.state_dict())
    train(4)
    wrong, refused = [], 0
    for what, bad in mutations(good):
        scheduler.load_state_dict(copy.deepcopy(good))
        rates = [float(g["lr"]) for g in optimizer.param_groups]
        before = copy.deepcopy(scheduler.state_dict())
        try:
            scheduler.load_state_dict(bad)
        except ValueError as error:
            refused += 1
            after = [float(g["lr"]) for g in optimizer.param_groups]
            if "load_state_dict" not in str(error):
                wrong.append(f"{what}: {error}")
            if after != rates or not same(scheduler.state_dict(), before):
                wrong.append(f"{what}: changed something")
        except Exception as error:
            wrong.append(f"{what}: {error!r}")
        else:
            rates = [float(g["lr"]) for g in optimizer.param_groups]
            if not all(0 < rate < 1e3 for rate in rates):
                wrong.append(f"{what}: rates {rates}")
    scheduler.load_state_dict(good)
    train(4)
    return refused, wrong


@pytest.mark.parametrize("kind", ["explorer", "one cycle"])
def test_a_broken_state_changes_nothing_or_is_a_good_one(kind):
    for refused, wrong in run_ranks(_attacked, 2, kind):
        assert not wrong
        assert refused > 400
