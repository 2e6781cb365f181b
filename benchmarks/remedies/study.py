"""Short-horizon bias, and what helps against it.

    OMP_NUM_THREADS=1 python benchmarks/remedies.py

Two measurements, written to records/remedies.json:

- **bias**: plain one-cycle runs at fixed peak rates, with replicas 30 % around them. At every
  sync the replicas' probe losses are read at their own weights (reach 1) and closer to the
  averaged weights (reach below 1). Where the mean evidence changes sign is the rate that a
  controller would settle at; it should be the best one, 1.
- **ablations**: Explorer from three starts with one part taken out or changed at a time:
  regret against the best of the plain runs above.
"""

import argparse
import copy
import math
import multiprocessing
import statistics

import torch

from hdet.replica.ensemble.spread import permutation
from hdet.replica.explorer import (
    averaged_weights,
    exploration,
    rate_search,
)
from hdet.replica.explorer import (
    reference as explorer_reference,
)
from hdet.replica.explorer.attribution import evidence, slopes, without_outliers
from hdet.replica.paper.reference import average, share_gradients

from ..core.timing import write_record
from ..robustness import ours
from ..robustness.peers import PEERS
from ..robustness.problems import (
    PROBLEMS,
    REPLICAS,
    load,
    new_model,
    new_optimizer,
    one_cycle,
    parameter_groups,
    replica_batch,
)

STARTS = [1 / 30, 1 / 3, 1.0, 3.0, 30.0]
ABLATION_STARTS = [1 / 30, 1.0, 30.0]
BIAS_PROBLEMS = ["teacher-sgd", "regression-sgd"]
REACHES = [1.0, 0.5, 0.25, averaged_weights.REACH]
PHASES = [(0.15, 0.3), (0.3, 0.5), (0.5, 0.7)]
ABLATIONS: dict[str, dict[str, float]] = {
    "as it is": {},
    "no search: start at the schedule itself": {"START": 1.0},
    "evidence at the current weights": {"REACH": 1.0},
    "no moves after the search": {"HOLD_GAIN": 0.0},
    "no replica is left out at a cliff": {"_CLIFF": math.inf},
    "cliff at half the height": {"_CLIFF": 2.0},
}
# The parts that an ablation changes, wherever they were imported to.
DEFAULTS = {
    (module, constant): getattr(module, constant)
    for module in (rate_search, exploration, averaged_weights, explorer_reference)
    for constant in ("START", "REACH", "HOLD_GAIN", "_CLIFF")
    if hasattr(module, constant)
}


@torch.no_grad()
def scores(task, models, centre, seed, sync, reach) -> list[float]:
    """Return the replicas' probe losses at `reach` of the way from the centre to them."""
    batch = ours.probe_batch(task, seed, sync)
    found = []
    for model in models:
        own = [p.clone() for p in model.parameters()]
        for weight, middle in zip(model.parameters(), centre, strict=True):
            weight.copy_(torch.lerp(middle, weight, reach))
        found.append(float(task.loss(model, batch)))
        for weight, kept in zip(model.parameters(), own, strict=True):
            weight.copy_(kept)
    return found


def bias(name: str, start: float, seed: int) -> list[list[float]]:
    """Return the mean evidence for each reach and phase of a run at a fixed peak rate."""
    problem = PROBLEMS[name]
    task, lr = load(problem), problem.centre * start
    models = [copy.deepcopy(new_model(task, seed)) for _ in range(REPLICAS)]
    optimizers = [
        new_optimizer(problem, parameter_groups(problem, task, m), lr) for m in models
    ]
    spare = new_optimizer(problem, parameter_groups(problem, task, new_model(task, seed)), lr)
    schedule = one_cycle(spare, problem, lr)
    centre = None
    found: list[list[list[float]]] = [[[] for _ in PHASES] for _ in REACHES]
    for t in range(problem.steps - 1):
        sync = t // ours.SYNC_EVERY
        order = permutation(REPLICAS, seed, sync, "bias")
        z = [2 * place / (REPLICAS - 1) - 1 for place in order]
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
            for reach, rows in zip(REACHES, found, strict=True):
                read = without_outliers(scores(task, models, centre, seed, sync, reach))
                sign = evidence(slopes(read, [z]).t[0])
                for (low, high), row in zip(PHASES, rows, strict=True):
                    if low <= t / problem.steps < high:
                        row.append(sign)
        average(models, optimizers)
        with torch.no_grad():
            weights = [p.detach() for p in models[0].parameters()]
            if centre is None:
                centre = [w.clone() for w in weights]
            for mine, weight in zip(centre, weights, strict=True):
                mine.lerp_(weight, averaged_weights.MEMORY)
    return [[statistics.fmean(row) for row in rows] for rows in found]


def job(work: tuple) -> tuple:
    """Do one unit of work in a process of its own."""
    torch.set_num_threads(1)
    kind, name, start, seed, changes = work
    for (module, constant), value in DEFAULTS.items():
        setattr(module, constant, changes.get(constant, value))
    problem = PROBLEMS[name]
    if kind == "bias":
        return work, bias(name, start, seed)
    method = PEERS["ddp"] if kind == "ddp" else ours.explorer
    outcome = method(problem, load(problem), problem.centre * start, seed)
    return work, outcome.held_out


def regrets(done: list[tuple], seeds: range) -> dict:
    """Return the regrets of every ablation, per problem and start, in percent."""

    def losses(kind: str, name: str, start: float, changes: dict) -> list[float]:
        wanted = [(kind, name, start, seed, changes) for seed in seeds]
        return [next(r for w, r in done if w == one) for one in wanted]

    table = {}
    for label, changes in ABLATIONS.items():
        table[label] = {}
        for name in BIAS_PROBLEMS:
            means = [statistics.fmean(losses("ddp", name, s, {})) for s in STARTS]
            best = min(m for m in means if math.isfinite(m))
            ends = [losses("hdet", name, s, changes) for s in ABLATION_STARTS]
            table[label][name] = [100 * (statistics.fmean(e) / best - 1) for e in ends]
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    seeds = range(parser.parse_args().seeds)
    each = [(n, s, k) for n in BIAS_PROBLEMS for s in STARTS for k in seeds]
    work = [("bias", *one, {}) for one in each] + [("ddp", *one, {}) for one in each]
    ablated = [one for one in each if one[1] in ABLATION_STARTS]
    work += [("hdet", *one, changes) for changes in ABLATIONS.values() for one in ablated]
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        done = pool.map(job, work, chunksize=1)
    table: dict[str, dict] = {}
    for name in BIAS_PROBLEMS:
        rows = table[name] = {}
        for i, reach in enumerate(REACHES):
            for j, (low, high) in enumerate(PHASES):
                rows[f"reach {reach:g}, {low:.0%} to {high:.0%} of the run"] = [
                    statistics.fmean(r[i][j] for w, r in done if w[:3] == ("bias", name, start))
                    for start in STARTS
                ]
    write_record(
        "remedies",
        "python benchmarks/remedies.py",
        {
            "seeds": len(seeds),
            "starts": STARTS,
            "bias": table,
            "regret starts": ABLATION_STARTS,
            "regret": regrets(done, seeds),
        },
    )


if __name__ == "__main__":
    main()
