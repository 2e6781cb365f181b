"""HDET: eight rates fan out around the schedule, and every sync makes the weights one again."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from hdet.replica.paper.reference import train

from ..tasks import get_task
from .drawing import concept

REPLICAS, STEPS, INTERVAL, WARM = 8, 600, 20, 200


def draw(folder: Path) -> None:
    """Train eight small networks by the paper's method, and draw their rates and weights."""
    task = get_task("digits")
    weights = np.zeros((STEPS, REPLICAS, 0))

    def loss(model: nn.Module, step: int, replica: int) -> Tensor:
        nonlocal weights
        flat = parameters_to_vector(model.parameters()).detach().numpy()
        if not weights.size:
            weights = np.zeros((STEPS, REPLICAS, len(flat)))
        weights[step, replica] = flat
        return task.loss(model, task.batch(0, step, replica, REPLICAS))

    trace = train(
        task.model(torch.Generator().manual_seed(0)),
        lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
        loss,
        replicas=REPLICAS,
        total_steps=STEPS,
        max_lr=1e-2,
        alpha=1 / 9,
        T=INTERVAL,
        S_warm=WARM,
        auto_lr=True,
        sigma=0.1,
    )
    rates = np.array(trace.rates)[:, 0]
    mean = weights.mean(1, keepdims=True)
    apart = np.linalg.norm(weights - mean, axis=2) / np.linalg.norm(mean, axis=2)
    with concept(folder, "hdet", 4.0, "Eight rates, averaged every 20 steps") as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot(rates, linewidth=0.9)
        upper.plot(rates.mean(1), color="black", linewidth=1.8, label="base rate")
        upper.axvline(WARM, color="gray", linestyle=":", label="the controller begins")
        upper.set_ylabel("learning rate")
        upper.legend(loc="upper right")
        lower.plot(100 * apart, linewidth=0.9)
        lower.set_ylabel("distance of weights\nfrom their mean, %")
        lower.set_xlabel("optimizer step")
