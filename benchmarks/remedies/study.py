"""Short-horizon bias, and what helps against it.

    python -m benchmarks remedies

Five measurements, the first two written to records/remedies.json:

- **bias**: plain one-cycle runs at fixed peak rates, with replicas 30 % around them. At every
  sync the replicas' probe losses are read at their own weights (mix 1) and closer to the
  averaged weights (mix below 1). Where the mean confidence changes sign is the rate that a
  controller would settle at; it should be the best one, 1.
- **ablations**: Explorer from three starts with one part taken out or changed at a time:
  regret against the best of plain runs;
- **trials**, to records/trials.json: which rate a short trial would choose, on a part of the
  batch and on all of it;
- **deferred**, to records/deferred.json: up to which rate older updates ask for a larger one,
  and what an average of the weights would gain at the end;
- **GPTs**, to records/gpts.json: the same for what dense networks do not show, on byte GPTs
  whose rate stays high: the length of the warm-up, and a rise whatever the noise.
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

from ..core.records import record, write_record
from ..robustness import ours
from ..robustness.peers import PEERS
from ..robustness.problems import (
    PROBLEMS,
    REPLICAS,
    TUNING,
    load,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
    replica_batch,
)
from . import averages, deferred
from .scalars import scalars
from .trials import KINDS, favourites

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
    "a climb half as fast": replace(CONFIG, climb_gain=CONFIG.climb_gain / 2),
    "a climb until nothing is left": replace(CONFIG, crossing_share=0.0),
    "half the fall after it": replace(CONFIG, crossing_factor=CONFIG.crossing_factor / 2),
    "the climb alone, no trials": replace(CONFIG, max_trials=0),
    "trials of twice the length": replace(CONFIG, trial_steps=2 * CONFIG.trial_steps),
    "the lowest loss of a trial alone": replace(CONFIG, trial_tolerance=0.01),
    "the mean of what was tried, no rise": replace(CONFIG, trial_rise=1.0),
    "twice the rise": replace(CONFIG, trial_rise=2 * CONFIG.trial_rise),
    "the rise by the gain itself, not its square": replace(CONFIG, gain_power=1.0),
    "the whole rise whatever the noise": replace(CONFIG, gain_power=100.0),
    "no warm-up to the rate found": replace(CONFIG, warmup_steps=1),
    "twice the warm-up": replace(CONFIG, warmup_steps=2 * CONFIG.warmup_steps),
    "a warm-up as long on falling schedules": replace(CONFIG, warmup_pace=1),
    "no moves after the search": replace(CONFIG, hold_gain=0.0),
    "moves in your warm-up too": replace(CONFIG, hold_from=0.0),
    "moves by the newest updates": replace(CONFIG, evidence_steps=5, evidence_delay=0),
    "moves twice as fast": replace(CONFIG, hold_gain=2 * CONFIG.hold_gain),
}
# Problems of the confirmation split, whose rate stays high.
GPTS = ["gpt-0.1M-wsd", "gpt-0.1M-free"]
GPT_CHANGES: dict[str, SearchConfig] = {
    "as it is": CONFIG,
    "the whole rise whatever the noise": replace(CONFIG, gain_power=100.0),
    **{f"{n} steps of warm-up": replace(CONFIG, warmup_steps=n) for n in (20, 40, 160)},
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


def mean_loss(
    done: list[tuple], kind: str, name: str, start: float, seeds: range, config: SearchConfig
) -> float:
    """Return the mean over seeds of what runs ended at."""
    wanted = [(kind, name, start, seed, config) for seed in seeds]
    return statistics.fmean(next(r for w, r in done if w == one) for one in wanted)


def best_plain(done: list[tuple], name: str, seeds: range) -> tuple[float, float]:
    """Return the lowest mean loss of the plain runs, and its rate over the centre."""
    means = [(mean_loss(done, "ddp", name, s, seeds, CONFIG), s) for s in SWEEP]
    return min(pair for pair in means if math.isfinite(pair[0]))


def runs(configs: dict[str, SearchConfig], names: list[str], seeds: range) -> list[tuple]:
    """Return the work that `regrets` needs."""
    plain = [("ddp", n, s, k, CONFIG) for n in names for s in SWEEP for k in seeds]
    return plain + [
        ("hdet", n, s, k, config)
        for config in configs.values()
        for n in names
        for s in ABLATION_STARTS
        for k in seeds
    ]


def regrets(
    done: list[tuple], configs: dict[str, SearchConfig], names: list[str], seeds: range
) -> dict:
    """Return Explorer's regrets with each of `configs`, by problem and start, in percent."""
    table = {}
    for label, config in configs.items():
        table[label] = {}
        for name in names:
            best, _ = best_plain(done, name, seeds)
            ends = [mean_loss(done, "hdet", name, s, seeds, config) for s in ABLATION_STARTS]
            table[label][name] = [100 * (end / best - 1) for end in ends]
    return table


def tried(work: tuple) -> dict[str, list[float]]:
    """Do the trials of one problem and seed in a process of its own."""
    torch.set_num_threads(1)
    return favourites(*work)


def trials(seeds: range) -> None:
    """Find the rates that short trials would choose, and write the record."""
    names = ABLATION_PROBLEMS
    plain = [("ddp", n, s, k, CONFIG) for n in names for s in SWEEP for k in seeds]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        done = pool.map(job, plain, chunksize=1)
        best = {n: PROBLEMS[n].centre * best_plain(done, n, seeds)[1] for n in names}
        chosen = pool.map(tried, [(n, best[n], k) for n in names for k in seeds], chunksize=1)
    found = {
        name: {
            kind: [x for k in seeds for x in chosen[len(seeds) * i + k][kind]] for kind in KINDS
        }
        for i, name in enumerate(names)
    }
    write_record(
        "trials",
        "python -m benchmarks remedies",
        {"seeds": len(seeds), "best": best, "chosen": found},
    )


def bias_and_ablations(seeds: range) -> None:
    """Measure both, and write the record."""
    each = [(n, s, k) for n in BIAS_PROBLEMS for s in STARTS for k in seeds]
    work = [("bias", *one, CONFIG) for one in each]
    work += runs(ABLATIONS, ABLATION_PROBLEMS, seeds)
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
            "regret": regrets(done, ABLATIONS, ABLATION_PROBLEMS, seeds),
        },
    )


def followed(work: tuple) -> dict[int, list[float]] | list[float]:
    """Do one plain run of `old_updates` in a process of its own."""
    torch.set_num_threads(1)
    kind, *run = work
    return deferred.cosines(*run) if kind == "updates" else averages.losses(*run)


def old_updates(seeds: range) -> None:
    """Ask what older updates tell, and what averages gain, and write the record."""
    references = record("robustness/summary")["references"]
    best = {one["problem"]: one["best_lr"] for one in references if one["split"] == TUNING}
    about = {"updates": deferred.MULTIPLES, "average": averages.MULTIPLES}
    work = [
        (kind, name, best[name] * multiple, seed)
        for kind, multiples in about.items()
        for name in best
        for multiple in multiples
        for seed in seeds
    ]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        done = dict(zip(work, pool.map(followed, work, chunksize=1), strict=True))

    def of(kind: str, name: str, multiple: float) -> list:
        return [done[kind, name, best[name] * multiple, seed] for seed in seeds]

    cosines = {
        name: {
            str(lag): {
                f"{multiple:.3g}": [
                    x for run in of("updates", name, multiple) for x in run[lag]
                ]
                for multiple in deferred.MULTIPLES
            }
            for lag in (deferred.INTERVAL * k for k in deferred.LAGS)
        }
        for name in best
    }
    gains = {
        name: {
            f"{multiple:.3g}": [
                statistics.fmean(
                    100 * (run[k] / run[0] - 1) for run in of("average", name, multiple)
                )
                for k in range(1, 1 + len(averages.HALF_LIVES))
            ]
            for multiple in averages.MULTIPLES
        }
        for name in best
    }
    write_record(
        "deferred",
        "python -m benchmarks remedies",
        {
            "seeds": len(seeds),
            "best": best,
            "asked to rise": {
                name: {
                    lag: [
                        float(m) for m, found in rows.items() if deferred.asked_to_rise(found)
                    ]
                    for lag, rows in of_lag.items()
                }
                for name, of_lag in cosines.items()
            },
            "cosines": {
                name: {
                    lag: {m: statistics.fmean(found) for m, found in rows.items()}
                    for lag, rows in of_lag.items()
                }
                for name, of_lag in cosines.items()
            },
            "half-lives": averages.HALF_LIVES,
            "averages": gains,
        },
    )


def gpts(seeds: range) -> None:
    """Change on byte GPTs what dense networks do not show, and write the record."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        done = pool.map(job, runs(GPT_CHANGES, GPTS, seeds), chunksize=1)
    write_record(
        "gpts",
        "python -m benchmarks remedies",
        {"seeds": len(seeds), "regret": regrets(done, GPT_CHANGES, GPTS, seeds)},
    )


def command(
    seeds: Annotated[
        int, typer.Option(min=0, help="Of the bias and the ablations; 0 leaves them.")
    ] = 2,
    trial_seeds: Annotated[int, typer.Option(min=0, help="Of the trials; 0 leaves them.")] = 2,
    deferred_seeds: Annotated[
        int, typer.Option(min=0, help="Of old updates and averages; 0 leaves them.")
    ] = 2,
    gpt_seeds: Annotated[int, typer.Option(min=0, help="Of the GPTs; 0 leaves them.")] = 2,
    scalar_seeds: Annotated[
        int, typer.Option(min=0, help="Of the other scalars; 0 leaves them.")
    ] = 3,
) -> None:
    """Ask what each part of Explorer contributes, and how other scalars fare."""
    if seeds:
        bias_and_ablations(range(seeds))
    if trial_seeds:
        trials(range(trial_seeds))
    if deferred_seeds:
        old_updates(range(deferred_seeds))
    if gpt_seeds:
        gpts(range(gpt_seeds))
    if scalar_seeds:
        scalars(range(scalar_seeds))
