"""Short-horizon bias, and what helps against it.

    python -m benchmarks remedies

Two measurements, written to records/remedies.json:

- **bias**: plain one-cycle runs at fixed peak rates, with replicas 30 % around them. At every
  sync the replicas' probe losses are read at their own weights (mix 1) and closer to the
  averaged weights (mix below 1). Where the mean confidence changes sign is the rate that a
  controller would settle at; it should be the best one, 1.
- **ablations**: Explorer from three starts with one part taken out or changed at a time:
  regret against the best of the plain runs above.
"""

import copy
import math
import multiprocessing
import statistics
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
import typer

from hdet import SearchConfig
from hdet.replica.ensemble.permutation import permutation
from hdet.replica.ensemble.reference import average, share_gradients
from hdet.replica.explorer.attribution import confidence, slopes, without_outliers

from ..core.records import write_record
from ..robustness import ours
from ..robustness.peers import PEERS
from ..robustness.problems import (
    PROBLEMS,
    REPLICAS,
    load,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
    replica_batch,
)
from .scalars import scalars

STARTS = [1 / 30, 1 / 3, 1.0, 3.0, 30.0]
ABLATION_STARTS = [1 / 30, 1.0, 30.0]
BIAS_PROBLEMS = ["teacher-sgd", "regression-sgd"]
# Of those on which rules may be tuned; and the rates of the plain runs they are measured by.
ABLATION_PROBLEMS = ["regression-sgd", "teacher-adamw", "ngram-adamw", "ngram-adamw-cosine"]
SWEEP = [10 ** (k / 4) for k in range(-3, 4)]
CONFIG = SearchConfig()
MIXES = [1.0, 0.5, 0.25, CONFIG.probe_mix]
PHASES = [(0.15, 0.3), (0.3, 0.5), (0.5, 0.7)]
ABLATIONS: dict[str, SearchConfig] = {
    "as it is": CONFIG,
    "the climb alone, no trials": replace(CONFIG, max_trials=0),
    "one trial at most": replace(CONFIG, max_trials=1),
    "trials of half the length": replace(CONFIG, trial_steps=CONFIG.trial_steps // 2),
    "trials of twice the length": replace(CONFIG, trial_steps=2 * CONFIG.trial_steps),
    "twice the steps before a trial": replace(CONFIG, settle_steps=2 * CONFIG.settle_steps),
    "trials from twice as high": replace(CONFIG, crossing_factor=CONFIG.crossing_factor / 2),
    "the lowest loss of a trial alone": replace(CONFIG, trial_tolerance=0.01),
    "no moves after the search": replace(CONFIG, hold_gain=0.0),
    "moves by single intervals": replace(CONFIG, hold_steps=1),
    "moves down as fast as up": replace(CONFIG, hold_damping=1.0),
}


@torch.no_grad()
def scores(task, models, centre, seed, sync, mix) -> list[float]:
    """Return the replicas' probe losses at `mix` of the way from the centre to them."""
    batch = ours.probe_batch(task, seed, sync)
    found = []
    for model in models:
        own = [p.clone() for p in model.parameters()]
        for weight, middle in zip(model.parameters(), centre, strict=True):
            weight.copy_(torch.lerp(middle, weight, mix))
        found.append(float(task.loss(model, batch)))
        for weight, kept in zip(model.parameters(), own, strict=True):
            weight.copy_(kept)
    return found


def bias(name: str, start: float, seed: int) -> list[list[float]]:
    """Return the mean confidence for each mix and phase of a run at a fixed peak rate."""
    problem = PROBLEMS[name]
    task, lr = load(problem), problem.centre * start
    models = [copy.deepcopy(new_model(task, seed)) for _ in range(REPLICAS)]
    optimizers = [
        new_optimizer(problem, parameter_groups(problem, task, m), lr) for m in models
    ]
    spare = new_optimizer(problem, parameter_groups(problem, task, new_model(task, seed)), lr)
    schedule = make_schedule(spare, problem, lr)
    centre = None
    found: list[list[list[float]]] = [[[] for _ in PHASES] for _ in MIXES]
    for t in range(problem.steps - 1):
        sync = t // ours.SYNC_EVERY
        order = permutation(REPLICAS, seed, sync, "bias")
        z = [2 * column / (REPLICAS - 1) - 1 for column in order]
        for r, optimizer in enumerate(optimizers):
            for group in optimizer.param_groups:
                group["lr"] = schedule.get_last_lr()[0] * math.exp(math.log(1.3) * z[r])
        batches = [replica_batch(task, seed, t, r) for r in range(REPLICAS)]
        losses = [task.loss(m, b) for m, b in zip(models, batches, strict=True)]
        share_gradients(models, losses)
        for optimizer in optimizers:
            optimizer.step()
        spare.step()
        schedule.step()
        if (t + 1) % ours.SYNC_EVERY:
            continue
        if centre is not None:
            for mix, rows in zip(MIXES, found, strict=True):
                read = without_outliers(scores(task, models, centre, seed, sync, mix))
                sign = confidence(slopes(read, [z]).t[0])
                for (low, high), row in zip(PHASES, rows, strict=True):
                    if low <= t / problem.steps < high:
                        row.append(sign)
        average(models, optimizers)
        with torch.no_grad():
            weights = [p.detach() for p in models[0].parameters()]
            if centre is None:
                centre = [w.clone() for w in weights]
            for mine, weight in zip(centre, weights, strict=True):
                mine.lerp_(weight, CONFIG.averaging_weight)
    return [[statistics.fmean(row) for row in rows] for rows in found]


def job(work: tuple) -> tuple:
    """Do one unit of work in a process of its own."""
    torch.set_num_threads(1)
    kind, name, start, seed, config = work
    problem = PROBLEMS[name]
    if kind == "bias":
        return work, bias(name, start, seed)
    method = PEERS["ddp"] if kind == "ddp" else partial(ours.explorer, config=config)
    outcome = method(problem, load(problem), problem.centre * start, seed)
    return work, outcome.held_out


def regrets(done: list[tuple], seeds: range) -> dict:
    """Return the regrets of every ablation, per problem and start, in percent."""

    def losses(kind: str, name: str, start: float, config: SearchConfig) -> list[float]:
        wanted = [(kind, name, start, seed, config) for seed in seeds]
        return [next(r for w, r in done if w == one) for one in wanted]

    table = {}
    for label, config in ABLATIONS.items():
        table[label] = {}
        for name in ABLATION_PROBLEMS:
            means = [statistics.fmean(losses("ddp", name, s, CONFIG)) for s in SWEEP]
            best = min(m for m in means if math.isfinite(m))
            ends = [losses("hdet", name, s, config) for s in ABLATION_STARTS]
            table[label][name] = [100 * (statistics.fmean(e) / best - 1) for e in ends]
    return table


def bias_and_ablations(seeds: range) -> None:
    """Measure both, and write the record."""
    each = [(n, s, k) for n in BIAS_PROBLEMS for s in STARTS for k in seeds]
    work = [("bias", *one, CONFIG) for one in each]
    work += [("ddp", n, s, k, CONFIG) for n in ABLATION_PROBLEMS for s in SWEEP for k in seeds]
    work += [
        ("hdet", n, s, k, config)
        for config in ABLATIONS.values()
        for n in ABLATION_PROBLEMS
        for s in ABLATION_STARTS
        for k in seeds
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        done = pool.map(job, work, chunksize=1)
    table: dict[str, dict] = {}
    for name in BIAS_PROBLEMS:
        rows = table[name] = {}
        for i, mix in enumerate(MIXES):
            for j, (low, high) in enumerate(PHASES):
                rows[f"reach {mix:g}, {low:.0%} to {high:.0%} of the run"] = [
                    statistics.fmean(r[i][j] for w, r in done if w[:3] == ("bias", name, start))
                    for start in STARTS
                ]
    write_record(
        "remedies",
        "python -m benchmarks remedies",
        {
            "seeds": len(seeds),
            "starts": STARTS,
            "bias": table,
            "regret starts": ABLATION_STARTS,
            "regret": regrets(done, seeds),
        },
    )


def command(
    seeds: Annotated[int, typer.Option(min=2, help="Of the bias and the ablations.")] = 2,
    scalar_seeds: Annotated[int, typer.Option(min=2, help="Of the other scalars.")] = 3,
) -> None:
    """Ask what each part of Explorer contributes, and how other scalars fare."""
    bias_and_ablations(range(seeds))
    scalars(range(scalar_seeds))
