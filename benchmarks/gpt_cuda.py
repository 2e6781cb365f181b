"""A sweep, peers by their packages, and Explorer on four real ranks: an 11M GPT on one GPU.

    python -m benchmarks.gpt_cuda --out gpt_cuda.json     # at most eight minutes on one H100
    python -m benchmarks.gpt_cuda --smoke                 # a tiny model on the CPU, a minute

The parts, in this order, are `sweep` (plain runs at five rates), `peers` (Prodigy and Prodigy
with Schedule-Free, which ask for no rate, and Schedule-Free from three starts) and `explorer`
(from the same starts). A start is a multiple of the sweep's best rate. A run is 700 steps of
8,192 tokens under warm-up and cosine, in bfloat16 on CUDA. Explorer's ranks are four processes
that share the GPU under `DistributedDataParallel` over gloo; NCCL takes one rank per GPU.

Each run is written to the file once it is done, and is not done again; none begins after the
time limit less what the longest run of its part took. So a run that was cut off goes on by the
same command.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import hdet

from .core.files import read_json, write_json
from .core.ranks import on_ranks
from .robustness.ours import SYNC_EVERY, probe_batch
from .robustness.peers import PEERS
from .robustness.problems import (
    REPLICAS,
    Problem,
    held_out_loss,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
    replica_batch,
)
from .tasks import Batch
from .tasks.gpt import GPTTask

PROBLEM = Problem("gpt-11M", "gpt-11M", "adamw", "warmup-cosine", 700, 1e-3, "confirmation")
SEED = 0
SWEEP = [10 ** (k / 4) for k in range(-2, 3)]  # times the problem's centre
STARTS = [1 / 30, 1.0, 30.0]  # times the sweep's best
PARTS = ("sweep", "peers", "explorer")
START_FREE = ("prodigy", "prodigy-schedule-free")
REMEDY = "remove it, or name another --out"
Run = Callable[[], dict[str, Any]]


class CudaGPT(GPTTask):
    """The GPT on whatever device there is, its data too."""

    name = "gpt-11M"
    title = "GPT of 11M parameters, Python source, next-byte cross-entropy (nats)"
    low_lr, batch_size = 1e-4, 8
    width, layers, context = 384, 6, 256

    def __init__(self, smoke: bool = False) -> None:
        """Read the text; with `smoke` for a tiny model on the CPU."""
        if smoke:
            self.width, self.layers, self.context, self.batch_size = 16, 1, 16, 2
        self.device = "cpu" if smoke or not torch.cuda.is_available() else "cuda"
        super().__init__()
        self._held_out = [self._moved(batch) for batch in self._held_out]

    def model(self, generator: torch.Generator) -> nn.Module:
        """Return a new model on the device."""
        return super().model(generator).to(self.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy; in bfloat16 on CUDA."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return super().loss(model, batch)

    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return (inputs, targets) on the device."""
        return self._moved(super().batch(seed, step, rank, world_size))

    def _moved(self, batch: Batch) -> Batch:
        return tuple(column.to(self.device) for column in batch)


def alone(method: str, problem: Problem, task: CudaGPT, lr: float) -> dict[str, Any]:
    """Train one model by a peer, or by the schedule alone."""
    outcome = PEERS[method](problem, task, lr, SEED)
    return {"held out": outcome.held_out, "rate": max(outcome.lrs), "seconds": outcome.seconds}


def on_one_rank(problem: Problem, smoke: bool, lr: float, file: str) -> None:
    """Train by Explorer on this rank; the first one writes how it went."""
    task, began = CudaGPT(smoke), time.perf_counter()
    model = new_model(task, SEED)
    ddp = DistributedDataParallel(model)
    optimizer = new_optimizer(problem, parameter_groups(problem, task, model), lr)
    syncs = itertools.count()
    explorer = hdet.Explorer(
        optimizer,
        make_schedule(optimizer, problem, lr),
        sync_every=SYNC_EVERY,
        probe=lambda: task.loss(model, probe_batch(task, SEED, next(syncs))),
        model=ddp,
        seed=SEED,
    )
    for step in range(problem.steps):
        loss = task.loss(ddp, replica_batch(task, SEED, step, dist.get_rank()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        explorer.step(loss.detach())
    explorer.converge()
    seconds = time.perf_counter() - began
    found = {"held out": held_out_loss(task, model), "rate": max(explorer.found())}
    if dist.get_rank() == 0:
        write_json(Path(file), {**found, "seconds": seconds})


def by_explorer(problem: Problem, smoke: bool, lr: float, beside: Path) -> dict[str, Any]:
    """Train by Explorer on four ranks."""
    on_ranks(on_one_rank, REPLICAS, problem, smoke, lr, str(beside))
    found = read_json(beside, REMEDY)
    beside.unlink()
    return found


def runs(part: str, problem: Problem, smoke: bool, best: float, out: Path) -> Iterator[tuple]:
    """Yield a part's runs: what each is called, and what does it."""
    if part == "explorer":
        beside = out.with_suffix(".explorer.json")
        for start in STARTS:
            run = partial(by_explorer, problem, smoke, best * start, beside)
            yield f"explorer from {start:.3g}", run
        return
    task = CudaGPT(smoke)
    if part == "sweep":
        for factor in SWEEP:
            lr = problem.centre * factor
            yield f"sweep {lr:.3g}", partial(alone, "ddp", problem, task, lr)
        return
    for method in START_FREE:
        yield method, partial(alone, method, problem, task, best)
    for start in STARTS:
        run = partial(alone, "schedule-free", problem, task, best * start)
        yield f"schedule-free from {start:.3g}", run


def best_of(done: dict[str, Any], problem: Problem) -> float | None:
    """Return the best rate of a whole sweep; None where it is not whole."""
    losses = {lr: done.get(f"sweep {lr:.3g}") for lr in (problem.centre * f for f in SWEEP)}
    if None in losses.values():
        return None
    return min(losses, key=lambda lr: _loss(losses[lr]))


def show(done: dict[str, Any]) -> None:
    """Print a table of what is done."""
    swept = [_loss(run) for name, run in done.items() if name.startswith("sweep")]
    print(f"{'run':32} {'held out':>9} {'regret':>8} {'rate':>9} {'seconds':>8}")
    for name, run in done.items():
        loss = _loss(run)
        regret = 100 * (loss / min(swept) - 1) if swept else math.nan
        rate, seconds = run["rate"] or math.nan, run["seconds"]
        print(f"{name:32} {loss:9.4f} {regret:+7.1f}% {rate:9.2e} {seconds:8.1f}")


def main(
    out: Annotated[Path, typer.Option(help="The record, which is gone on with.")] = Path(
        "gpt_cuda.json"
    ),
    limit: Annotated[float, typer.Option(min=1, help="Seconds, of this call.")] = 480.0,
    parts: Annotated[str, typer.Option(help="Some of the parts, by commas.")] = ",".join(PARTS),
    smoke: Annotated[bool, typer.Option("--smoke", help="In miniature, on the CPU.")] = False,
) -> None:
    """Compare Explorer on four ranks with a sweep and peers, on one GPU."""
    began, wanted = time.perf_counter(), parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        raise typer.BadParameter(f"--parts: {', '.join(unknown)}: choose from {parts}.")
    if not smoke and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device: add --smoke.")
    problem = replace(PROBLEM, steps=60) if smoke else PROBLEM
    about = {
        "command": "python -m benchmarks.gpt_cuda",
        "device": "a CPU" if smoke else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "ranks": REPLICAS,
        "sync_every": SYNC_EVERY,
        "seed": SEED,
        **asdict(problem),
    }
    held = read_json(out, REMEDY) if out.exists() else {**about, "date": str(date.today())}
    if differing := [key for key, value in about.items() if held.get(key) != value]:
        raise typer.BadParameter(f"{out} is of another {', '.join(differing)}: {REMEDY}.")
    done: dict[str, Any] = held.setdefault("runs", {})
    for part in (part for part in PARTS if part in wanted):
        best, longest = best_of(done, problem), 0.0
        if best is None and part != "sweep":
            print(f"{part}: needs the whole sweep.")
            break
        for name, run in runs(part, problem, smoke, best or problem.centre, out):
            left = limit - (time.perf_counter() - began)
            if name in done:
                continue
            if left <= longest:
                print(f"{name}: no time left; the same command goes on.")
                break
            started = time.perf_counter()
            done[name] = run()
            longest = max(longest, time.perf_counter() - started)
            write_json(out, held)
            print(f"{name}: {_loss(done[name]):.4f}, {longest:.0f} s at most", flush=True)
    show(done)


def _loss(run: Any) -> float:
    loss = run["held out"]
    return loss if loss is not None and math.isfinite(loss) else math.inf


if __name__ == "__main__":
    typer.run(main)
