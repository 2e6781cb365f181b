"""The distributed run is the algorithm of the reference, to rounding."""

import pytest
import torch
import torch.distributed as dist

import hdet
from hdet.replica.paper import reference
from tests.helpers import loss_at, small_model, train_ddp, two_groups, weights
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

STEPS, T, WARM = 100, 10, 30
OPTIMIZERS = {
    "adamw": lambda m: torch.optim.AdamW(two_groups(m), weight_decay=0.1),
    "adam with coupled decay": lambda m: torch.optim.Adam(two_groups(m), weight_decay=0.1),
    "sgd with coupled decay": lambda m: torch.optim.SGD(
        two_groups(m), lr=0.1, momentum=0.9, weight_decay=0.01
    ),
}


def _distributed(name: str, auto_lr: bool):
    model = small_model()
    optimizer = OPTIMIZERS[name](model)
    scheduler = hdet.OneCycleAutoLR(
        optimizer,
        [0.02, 0.05],
        STEPS,
        ensemble_lr_spread_ratio=0.3,
        model_sync_interval=T,
        auto_lr_warmup_steps=WARM,
        enable_auto_lr=auto_lr,
        loss_scale=0.05,
        seed=3,
    )
    rates = train_ddp(model, optimizer, scheduler, dist.get_rank(), range(STEPS))
    return rates, weights(model), scheduler.metrics()


@pytest.mark.parametrize("auto_lr", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_four_ranks_agree_with_the_reference_over_100_steps(name, auto_lr):
    ranks = run_ranks(_distributed, 4, name, auto_lr)
    trace = reference.train(
        small_model(),
        OPTIMIZERS[name],
        loss_at,
        replicas=4,
        total_steps=STEPS,
        max_lr=[0.02, 0.05],
        alpha=0.3,
        T=T,
        S_warm=WARM,
        auto_lr=auto_lr,
        sigma=0.05,
        seed=3,
    )
    assert len(trace.weights) == (8 if auto_lr else 0)
    for r, (rates, parameters, metrics) in enumerate(ranks):
        expected = [[group[r] for group in step] for step in trace.rates]
        torch.testing.assert_close(
            torch.tensor(rates, dtype=torch.float64),
            torch.tensor(expected, dtype=torch.float64),
            rtol=1e-10,
            atol=0,
        )
        for mine, theirs in zip(parameters, trace.models[r].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-10, atol=1e-10)
        if auto_lr:
            assert metrics["weights"] == pytest.approx(trace.weights[-1], rel=1e-8)
            assert metrics["base_lr"] == pytest.approx(trace.bases[-1], rel=1e-10)
