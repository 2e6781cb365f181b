"""Explorer: one rate climbs, four are tried alone, and the schedule goes on around the find."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import hdet
from hdet.replica.explorer.decision import Decision
from hdet.replica.explorer.reference import train

from ..core.plotting import logarithmic
from ..tasks import get_task
from .drawing import concept, note

REPLICAS, STEPS, INTERVAL, RATE = 4, 300, 3, 3e-4
PROBE_SEED = 10_000  # of data that nobody trains on


def draw(folder: Path) -> None:
    """Train four small networks from a rate that is too low, and draw their rates."""
    task, now, first = get_task("digits"), 0, math.inf

    def loss(model: nn.Module, step: int, replica: int) -> Tensor:
        nonlocal now
        now = step
        return task.loss(model, task.batch(0, step, replica, REPLICAS))

    def probe(model: nn.Module, call: int) -> Tensor:
        parts = [task.batch(PROBE_SEED, call, rank, REPLICAS) for rank in range(REPLICAS)]
        images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        return task.loss(model, (images, labels))

    def on_sync(sync: int, losses: list[float], decision: Decision) -> None:
        nonlocal first
        first = min(first, now)

    trace = train(
        task.model(torch.Generator().manual_seed(0)),
        lambda model: torch.optim.AdamW(model.parameters(), lr=RATE),
        lambda optimizer: CosineAnnealingLR(optimizer, STEPS),
        loss,
        probe,
        explore=lambda model: [hdet.lr()],
        replicas=REPLICAS,
        total_steps=STEPS,
        T=INTERVAL,
        on_sync=on_sync,
    )
    rates = np.array(trace.rates)[:, 0]
    follow = int(first) + 1 - INTERVAL
    constants = hdet.SearchConfig()  # the schedule falls from the start
    warm = follow - constants.warmup_steps // constants.warmup_pace
    settle = int(np.argmax(np.diff(rates[:follow, 0]) < 0)) + 1
    trial = int(np.argmax(np.ptp(rates[:follow], axis=1) > 0))
    schedule = RATE * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)) / 2
    title = f"A run from a rate of {RATE:g}, found while it trains"
    with concept(folder, "explorer", 3.6, title) as figure:
        ax = figure.subplots()
        ax.plot(rates, linewidth=0.9, label=["replicas", *[""] * (REPLICAS - 1)])
        ax.plot(schedule, color="black", linestyle="--", label="your schedule as written")
        phases = {0: "climb", settle: "", trial: "try", warm: "warm up", follow: " follow"}
        for start, name in phases.items():
            ax.axvline(start, color="gray", linestyle=":")
            note(ax, start, name)
        logarithmic(ax)
        ax.set_ylim(1e-7, 5)
        ax.set(xlabel="optimizer step", ylabel="learning rate")
        ax.legend(loc="lower center")
