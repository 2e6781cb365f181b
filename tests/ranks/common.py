"""The run that the tests of `OneCycleAutoLR` on ranks share."""

import torch

import hdet
from tests.helpers import small_model, two_groups

STEPS, T = 40, 6
AUTO = {
    "ensemble_lr_spread_ratio": 0.3,
    "model_sync_interval": T,
    "auto_lr_warmup_steps": 12,
    "enable_auto_lr": True,
    "loss_scale": 0.05,
}
# Short runs against the reference, for models whose every step is dear.
SHORT_STEPS, SHORT_T = 24, 4
SHORT = {**AUTO, "model_sync_interval": SHORT_T, "auto_lr_warmup_steps": 8}


def squared_error(model, x, y):
    return (model(x) - y).square().mean()


def setup_run(settings, norm=False, make=None, total_steps=STEPS):
    model = small_model(norm=norm)
    make = make or (lambda m: torch.optim.AdamW(two_groups(m)))
    optimizer = make(model)
    scheduler = hdet.OneCycleAutoLR(
        optimizer, [0.02, 0.05], total_steps, model=model, **settings
    )
    return model, optimizer, scheduler
