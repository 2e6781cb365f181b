"""What the methods reach: means over seeds, and ratios to MAID's loss seed by seed.

Losses are the upper level's at the exact solution of the lower level, whatever a method saw.
The ratio of two methods from one start is the geometric mean over seeds of

    r = loss of the other / loss of MAID,

more than 1 where MAID is lower; its interval is that of mean log r. Only seeds count of which
all starts are there, the method's own and MAID's: a study under way has means of fewer seeds.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..core.statistics import Estimate, estimate
from .methods import BASELINES, FIXED, METHODS, OURS, PROTOTYPES, Method
from .study import STARTS, Folder, units

# A DataFrame with a row for each run; pandas' own types say little of what indexing gives.
Runs = Any
_OF_RUN = (
    "steps",
    "failed_searches",
    "cost",
    "seconds",
    "stuck",
    "failure",
    "title",
    "parameters",
)


def comparison(folder: Folder) -> Runs:
    """Return a row for each run of the comparison that counts; see `_runs`."""
    return _runs(folder, "comparison", OURS)


def prototype(folder: Folder) -> Runs:
    """Return a row for each run at the paper's setting; ratios are to the first method's."""
    return _runs(folder, "prototype", next(iter(PROTOTYPES)))


def _runs(folder: Folder, experiment: str, reference: str) -> Runs:
    """Return the runs of an experiment, of seeds that are whole.

    Returns:
        Columns task, method, start, seed, budget, parameters; those of the run's line;
        `judged <measure>` and `start <measure>`; and `log_ratio` of the loss to the
        reference's.
    """
    results = folder.results()
    rows = [
        {
            "task": unit.task,
            "method": unit.method,
            "start": unit.start,
            "seed": unit.seed,
            "budget": unit.budget,
            **{name: run[name] for name in _OF_RUN},
            **_numbers("judged", run),
            **_numbers("start", run),
        }
        for unit in units(folder.plan())
        if unit.experiment == experiment and (run := results.get(unit.key))
    ]
    found: Runs = pd.DataFrame(rows)
    if found.empty:
        return found
    starts = found.groupby(["task", "method", "seed"])["start"].transform("nunique")
    found = found[starts == len(STARTS)]
    logs = np.log(found["judged loss"].clip(lower=math.ulp(0.0)))
    found = found.assign(log=logs)
    ours = found[found["method"] == reference][["task", "start", "seed", "log"]]
    found = found.merge(ours, on=["task", "start", "seed"], suffixes=("", "_ours"))
    return found.assign(log_ratio=found["log"] - found["log_ours"])


def _numbers(kind: str, run: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures of a run's end or start; NaN for what was not finite."""
    return {f"{kind} {k}": math.nan if v is None else v for k, v in run[kind].items()}


def by_start(runs: Runs, column: str) -> list[Estimate]:
    """Return the means over seeds of one method's runs on one task, start by start."""
    return [estimate(runs[runs["start"] == start][column]) for start in STARTS]


def spread(runs: Runs) -> Estimate:
    """Return by what part the largest loss of the starts exceeds the smallest, over seeds."""
    logs = runs.pivot(index="seed", columns="start", values="log")
    gap = logs.max(axis=1, skipna=False) - logs.min(axis=1, skipna=False)
    return estimate(np.expm1(gap))


def each(runs: Runs, methods: Mapping[str, Method] = METHODS) -> Iterator[Any]:
    """Yield (method's name, its label, its runs), in the order of tables."""
    for name, method in methods.items():
        mine = runs[runs["method"] == name]
        if len(mine):
            yield name, method.label, mine


def of(runs: Runs, task: str, method: str) -> Runs:
    """Return the runs of one method on one task."""
    return runs[(runs["task"] == task) & (runs["method"] == method)]


def duels(runs: Runs) -> Runs:
    """Return how many baselines MAID is compared with from each start, and how it stands.

    Returns:
        Columns task, start, baselines; `lower`: those with a lower mean loss than MAID; and
        `above`: those whose ratio to MAID's loss has an interval above 1.
    """
    rows = []
    for task in runs["task"].unique():
        ours = of(runs, task, OURS)
        theirs = [of(runs, task, name) for name in BASELINES]
        # Means over other seeds than MAID's are not compared.
        theirs = [one for one in theirs if set(one["seed"]) == set(ours["seed"])]
        for i, start in enumerate(STARTS):
            mean = by_start(ours, "judged loss")[i].mean
            # Losses that cannot be had are not lower, nor known to be higher.
            rows.append(
                {
                    "task": task,
                    "start": start,
                    "baselines": len(theirs),
                    "lower": sum(by_start(one, "judged loss")[i].mean < mean for one in theirs),
                    "above": sum(by_start(one, "log_ratio")[i].low > 0 for one in theirs),
                }
            )
    return pd.DataFrame(rows)


def hindsight(runs: Runs) -> dict[str, dict[str, Any]]:
    """Return, by task, the fixed accuracy with the lowest mean loss, and its ratios to MAID's.

    Returns:
        By task: `method`, `start`, `loss`, and `log_ratios` by MAID's start.
    """
    made = {}
    for task in runs["task"].unique():
        ours = of(runs, task, OURS)
        theirs = runs[(runs["task"] == task) & runs["method"].isin(FIXED)]
        theirs = theirs[theirs["seed"].isin(ours["seed"])]
        mean = theirs.groupby(["method", "start"])["judged loss"].mean().dropna()
        if mean.empty:
            continue
        method, start = mean.idxmin()
        best = theirs[(theirs["method"] == method) & (theirs["start"] == start)]
        logs = best.set_index("seed")["log"]
        made[task] = {
            "method": method,
            "start": start,
            "loss": estimate(best["judged loss"]),
            "log_ratios": [
                estimate(logs - ours[ours["start"] == x].set_index("seed")["log"])
                for x in STARTS
            ],
        }
    return made


def crossover_runs(folder: Folder) -> Runs:
    """Return the runs of the crossover: condition, method, and each run's line."""
    results = folder.results()
    return pd.DataFrame(
        {"condition": unit.condition, "method": unit.method, **results[unit.key]}
        for unit in units(folder.plan())
        if unit.experiment == "crossover" and unit.key in results
    )
