"""What HDET adds to a training step: against plain DDP with OneCycleLR.

    python -m benchmarks overhead [--steps 200] [--ranks 4]

Two models of 10 million parameters train side by side, one step of each in turn, so that a
noisy moment hits both. Whole steps differ by chance far more than by what HDET adds, so what
it adds is timed where it is added: the scheduler's own step between syncs, and the sync that
comes every T = 100 steps. "Beyond the averaging" takes the time of `hdet.average_` on the
same parameters out of the sync. The ratio of whole steps stands beside it as a check.
"""

import statistics
import time
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR

import hdet
from hdet.seeding import generator

from ..core.ranks import on_ranks
from ..core.records import write_record
from ..core.timing import in_turns

T = 100
WIDTH = 1023


def model() -> nn.Module:
    """Return a network of 10.5 million parameters in 20 tensors."""
    layers: list[nn.Module] = []
    for _ in range(10):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers)


def measure(steps: int) -> None:
    """Measure on every rank; rank 0 writes the record."""
    runs = {}
    for name in ("plain", "hdet"):
        network = model()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
        scheduler = (
            OneCycleLR(optimizer, 1e-4, steps + T)
            if name == "plain"
            else hdet.OneCycleAutoLR(
                optimizer,
                1e-4,
                steps + T,
                ensemble_lr_spread_ratio=1 / 9,
                model_sync_interval=T,
                auto_lr_warmup_steps=0,
                enable_auto_lr=True,
            )
        )
        runs[name] = (DistributedDataParallel(network), optimizer, scheduler)
    x = torch.randn(16, WIDTH, generator=generator(0, "x", dist.get_rank()))

    own: dict[str, list[float]] = {"plain": [], "hdet": []}

    def step(name: str) -> float:
        ddp, optimizer, scheduler = runs[name]
        dist.barrier()
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = (ddp(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        stepping = time.perf_counter()
        scheduler.step() if name == "plain" else scheduler.step(loss)
        own[name].append(time.perf_counter() - stepping)
        took = torch.tensor(time.perf_counter() - began)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        return float(took)

    between: list[float] = []
    plain: list[float] = []
    for t in range(1, steps + 1):
        first, second = ("plain", "hdet") if t % 2 else ("hdet", "plain")
        took = {first: step(first), second: step(second)}
        if t % T and t > 2:
            plain.append(took["plain"])
            between.append(took["hdet"])

    # The sync alone, many times, since a run has few.
    parameters = list(runs["hdet"][0].parameters())
    alone = in_turns(
        {
            "sync": lambda: runs["hdet"][2].converge(),
            "average": lambda: hdet.average_(parameters),
        },
        15,
    )
    sync, average = (statistics.median(alone[k]) for k in ("sync", "average"))
    base = statistics.median(plain)
    pairs = [a / b for a, b in zip(between, plain, strict=True)]
    error = 1.2533 * statistics.stdev(pairs) / len(pairs) ** 0.5
    stepping = {name: statistics.median(seconds) for name, seconds in own.items()}
    added = (stepping["hdet"] - stepping["plain"]) / base
    content = {
        "ranks": dist.get_world_size(),
        "steps": steps,
        "T": T,
        "ms": {
            "plain step": base * 1e3,
            "sync": sync * 1e3,
            "averaging": average * 1e3,
            "scheduler step, plain": stepping["plain"] * 1e3,
            "scheduler step, hdet": stepping["hdet"] * 1e3,
        },
        "whole": 1 + added + sync / T / base,
        "beyond the averaging": 1 + added + (sync - average) / T / base,
        "check: ratio of whole steps between syncs": {
            "median": statistics.median(pairs),
            "error": error,
        },
    }
    if dist.get_rank() == 0:
        write_record("overhead", "python -m benchmarks overhead", content)
        for key, value in content.items():
            print(key, value)


def command(
    steps: Annotated[int, typer.Option(min=2 * T, help="Optimizer steps of each.")] = 200,
    ranks: Annotated[int, typer.Option(min=2, help="Processes.")] = 4,
) -> None:
    """What HDET adds to a training step, against plain DDP with OneCycleLR."""
    on_ranks(measure, ranks, steps)
