"""What the runs say: regret, compute to target, and the noise of each problem.

    loss of a run = min(held-out loss at its end, held-out loss of its initial weights)
    regret = mean loss over seeds / reference - 1, in percent
    reference = the lowest mean loss of plain DDP, over the sweep and the starts

The cap keeps the loss of a run that diverged a number. The error is the standard error of the
same ratio taken seed by seed, each against the reference row's loss of that seed: seeds share
weights and batches, so most of what differs between them drops out. The best of many rows is
chosen after the fact, which flatters the reference and makes all regrets a little too large.

    noise = how far the reference's own loss moves with other batches from the same weights
    compute to target = (steps to the target + forward passes / 3) / steps of one run

The target is the reference's loss and the noise on top, since less cannot be told apart. The
steps are read from the mean curve over seeds, between readings by a straight line; the compute
is infinite if the curve never gets there. An extra forward pass counts a third of a training
step. A sweep of seven costs 7.
"""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd

from ..core.records import RECORDS
from .methods import LABELS, OURS, PLAIN, START_FREE
from .runs import CALIBRATED, RERUN, Runs, capped, start_label, start_point, sweep_point

# Percent: what the worst start may cost, what counts as robust, and the most noise.
TOLERANCE = 2.0
MOST_NOISE = 1.0
FAR = 4.0  # and a regret that the page names
# Of one run, to the sweep's loss.
BUDGET = 1.15


def references(runs: Runs) -> pd.DataFrame:
    """Return what regrets are measured against, of the problems whose sweep is done.

    Returns:
        By row: `problem`; `best_lr`, the sweep's best peak rate; `loss`, the lowest mean loss
        of plain DDP, and the losses `by_seed` of the row that has it; `initial`, the mean loss
        of the initial weights; `at_edge`, whether the best rate is the outermost of the sweep
        even so; `noise` in percent, NaN until measured.

    Raises:
        ValueError: if the best loss is not above 0.
    """
    found = []
    for problem in runs.settings.problems:
        best, name = runs.best_lr(problem), problem.name
        if best is None:
            continue
        points = runs.sweep_points(problem)
        names = [sweep_point(p) for p in points]
        names += [start_point(PLAIN, start) for start in runs.settings.starts]
        rows = [row for point in names if (row := runs.seeds(name, PLAIN, point))]
        chosen = min(rows, key=_mean_loss)
        if _mean_loss(chosen) <= 0:
            raise ValueError(
                f"the best loss on {name} is {_mean_loss(chosen):g}, and a regret is a ratio "
                f"of losses above 0: give the task a loss that stays above 0."
            )
        found.append(
            {
                "problem": name,
                "split": problem.split,
                "best_lr": best,
                "loss": _mean_loss(chosen),
                "by_seed": [capped(run) for run in chosen],
                "initial": fmean(run["initial"] for run in chosen),
                "at_edge": runs.best_point(problem) in (points[0], points[-1]),
                "noise": _noise(runs, name, sweep_point(runs.best_point(problem) or 0)),
            }
        )
    names = ["problem", "split", "best_lr", "loss", "by_seed", "initial", "at_edge", "noise"]
    return pd.DataFrame(found, columns=names)


def _noise(runs: Runs, problem: str, best: str) -> float:
    """Return the mean over seeds of how far other batches move the loss, in percent."""
    first, again = runs.losses(problem, PLAIN, best), runs.losses(problem, RERUN, "noise")
    if not first or not again:
        return math.nan
    return fmean(100 * abs(b / a - 1) for a, b in zip(first, again, strict=True))


def cells(runs: Runs) -> pd.DataFrame:
    """Return a row for each problem, method and start whose seeds have all run."""
    found = []
    for against in references(runs).to_dict("records"):
        for method in runs.settings.methods:
            for start in runs.settings.starts:
                row = runs.seeds(against["problem"], method, start_point(method, start))
                if row:
                    where = {"problem": against["problem"], "split": against["split"]}
                    where |= {"method": method, "start": start}
                    found.append({**where, **cell(row, against)})
    return pd.DataFrame(found)


def cell(row: Sequence[Mapping[str, Any]], against: Mapping[str, Any]) -> dict[str, float]:
    """Return what one start of a method comes to; see the module's head for the rules.

    Args:
        row: its runs, by seed.
        against: the problem's reference.

    Returns:
        In percent `regret` of the mean loss and its standard `error`, NaN with one seed;
        `compute` to target; how many `diverged`, so that their loss is their initial weights',
        of how many `seeds`; `seconds` of a run, and `forwards` beside training.
    """
    losses = [capped(run) for run in row]
    ratios = [100 * (a / b - 1) for a, b in zip(losses, against["by_seed"], strict=True)]
    error = stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
    return {
        "regret": 100 * (fmean(losses) / against["loss"] - 1),
        "error": error,
        "compute": compute(row, against["loss"], against["noise"]),
        "diverged": sum(not run["held_out"] < run["initial"] for run in row),
        "seeds": len(row),
        "seconds": fmean(run["seconds"] for run in row),
        "forwards": fmean(run["forwards"] for run in row),
    }


def compute(row: Sequence[Mapping[str, Any]], loss: float, noise: float) -> float:
    """Return the compute to target in runs; infinite if it is missed.

    Args:
        row: runs by seed, whose curves were read at the same steps.
        loss: the reference's.
        noise: the problem's, in percent; 0 is taken for NaN.
    """
    steps = [0, *(step for step, _ in row[0]["curve"])]
    curves = [[run["initial"], *(value for _, value in run["curve"])] for run in row]
    mean = np.nan_to_num(np.mean(curves, axis=0), nan=math.inf)
    target = loss * (1 + (0 if math.isnan(noise) else noise) / 100)
    if not (mean <= target).any():
        return math.inf
    at = int(np.argmax(mean <= target))
    reached = np.interp(-target, -mean[at - 1 : at + 1], steps[at - 1 : at + 1]) if at else 0
    return float((reached + fmean(run["forwards"] for run in row) / 3) / steps[-1])


def standings(cells: pd.DataFrame) -> pd.DataFrame:
    """Return each method over its problems and starts, in the order of the cells."""
    found = []
    for method, mine in cells.groupby("method", sort=False):
        worst = mine.loc[mine["regret"].idxmax()]
        found.append(
            {
                "method": method,
                "mean": mine["regret"].mean(),
                "mean_error": mine["regret"].std() / math.sqrt(len(mine)),
                "worst": worst["regret"],
                "worst_problem": worst["problem"],
                "worst_start": worst["start"],
                "within": (mine["regret"] <= TOLERANCE).mean(),
                "compute": mine["compute"].median(),
                "in_budget": (mine["compute"] <= BUDGET).mean(),
                "diverged": mine["diverged"].sum(),
                "runs": mine["seeds"].sum(),
            }
        )
    return pd.DataFrame(found)


def standings_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the methods over all problems and starts, as texts."""
    lines = []
    for one in standings(cells).itertuples():
        free = one.method in START_FREE | {CALIBRATED}
        where = "" if free else f" from {start_label(one.worst_start)}"
        lines.append(
            {
                "method": label(one.method),
                "mean": percent(one.mean),
                "worst": percent(one.worst),
                "worst on": f"{one.worst_problem}{where}",
                f"≤ {TOLERANCE:g} %": f"{one.within:.0%}",
                f"≤ {BUDGET:g} runs": f"{one.in_budget:.0%}",
                "diverged": f"{one.diverged} of {one.runs}",
            }
        )
    return pd.DataFrame(lines)


def noise_table(references: pd.DataFrame) -> pd.DataFrame:
    """Return the problems with their best rates, losses and noise, as texts."""
    lines = [
        {
            "problem": one.problem,
            "split": one.split,
            "best rate": f"{one.best_lr:.3g}{' (edge)' if one.at_edge else ''}",
            "loss": f"{one.loss:.4g}",
            "initial": f"{one.initial:.4g}",
            "noise": "–" if math.isnan(one.noise) else f"{one.noise:.2f} %",
        }
        for one in references.itertuples()
    ]
    return pd.DataFrame(lines)


def problem_table(cells: pd.DataFrame, problem: str) -> pd.DataFrame:
    """Return the methods on one problem by their starts, as texts."""
    mine = cells[cells["problem"] == problem]
    lines = []
    for method, row in mine.groupby("method", sort=False):
        texts = {start_label(c.start): cell_text(c) for c in row.itertuples()}
        ends = {"mean": percent(row["regret"].mean()), "worst": percent(row["regret"].max())}
        middle = row["compute"].median()
        ends["compute"] = "–" if math.isinf(middle) else f"{middle:.2f}"
        lines.append({"method": label(str(method)), **texts, **ends})
    return pd.DataFrame(lines).fillna("–")


def label(method: str) -> str:
    """Return how tables call a method; ° marks those that need no initial rate."""
    free = method in START_FREE | {CALIBRATED}
    return LABELS.get(method, method) + ("°" if free else "")


def percent(value: float) -> str:
    """Return a regret for a table."""
    if math.isnan(value):
        return "–"
    return f"{value:+.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f} %"


def cell_text(cell: Any) -> str:
    """Return a start for a table: regret and error, and how many seeds diverged."""
    error = f" ± {percent(cell.error).lstrip('+')}" if cell.error == cell.error else ""
    text = percent(cell.regret).removesuffix(" %" if error else "") + error
    return f"{text}, {cell.diverged} of {cell.seeds} diverged" if cell.diverged else text


def summary(runs: Runs) -> dict[str, Any]:
    """Return the numbers that a record has; null stands for what is not finite."""
    found, by = cells(runs), ["problem", "split", "method"]
    return {
        "references": references(runs).to_dict("records"),
        "rows": [
            {
                **dict(zip(by, names, strict=True)),
                "cells": row.drop(columns=by).to_dict("records"),
            }
            for names, row in found.groupby(by, sort=False)
        ],
    }


def recorded(found: dict[str, Any]) -> pd.DataFrame:
    """Return a record's cells, with infinity for the nulls that stand for it."""
    every = pd.json_normalize(found["rows"], "cells", ["problem", "split", "method"])
    infinite = every["compute"].astype(float).fillna(math.inf)
    return every.assign(compute=infinite, error=every["error"].astype(float))


def values() -> dict[str, Any]:
    """Return the numbers that docs/results/robustness.md names."""
    record = RECORDS / "robustness"
    return page_values(
        *(
            json.loads((record / f"{name}.json").read_text())
            for name in ("config", "environment", "summary")
        )
    )


def page_values(
    config: dict[str, Any], versions: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Return the same of the contents of a run folder."""
    every = recorded(found)
    own = every[every["method"] == OURS]
    worst = own.groupby("problem", sort=False)["regret"].max()
    standing = {one["method"]: one for one in standings(every).to_dict("records")}
    fewer = every.groupby("method")["seeds"].transform("max") < own["seeds"].max()
    optimizer = {one["name"]: one["optimizer"] for one in config["problems"]}
    adamw = [
        one["best_lr"] for one in found["references"] if optimizer[one["problem"]] == "adamw"
    ]
    return {
        "config": config,
        "versions": versions,
        "starts": ",".join(map(start_label, config["starts"])),
        "ours": label(OURS),
        "standing": standing,
        "summary": summary_table(every[~fewer]),
        # Of the methods that have run with fewer seeds; None without any.
        "fewer": summary_table(every[fewer]) if fewer.any() else None,
        "lower": {
            key: [
                label(method)
                for method, one in standing.items()
                if one[key] < standing[OURS][key]
            ]
            for key in ("mean", "worst")
        },
        # Of Explorer, by problem, from all its starts.
        "regrets": own.groupby("problem", sort=False)["regret"].apply(list).to_dict(),
        "right": own[own["start"] == 1]["regret"],
        "near": list(worst[worst <= FAR].index),
        "far": list(worst[worst > FAR].index),
        "furthest": worst[worst <= FAR].max(),
        "problems": problems_table(every, config, found["references"]),
        "noisy": [
            one["problem"] for one in found["references"] if (one["noise"] or 0) > MOST_NOISE
        ],
        "most_noise": MOST_NOISE,
        "noisiest": max(one["noise"] or 0 for one in found["references"]),
        "apart": max(adamw) / min(adamw),
        "budget": BUDGET,
        "percent": percent,
    }


def summary_table(every: pd.DataFrame) -> pd.DataFrame:
    """Return the methods over all starts, and over those of each split, as texts."""
    means = every.groupby(["method", "split"], sort=False)["regret"].mean().unstack()
    table = standings_table(every).filter(["method", "mean", "worst", "worst on"])
    for place, split in enumerate(means, 3):
        # In the order of the table: that of the cells.
        order = standings(every)["method"]
        table.insert(place, split, [percent(means.loc[method, split]) for method in order])
    return table


def problems_table(
    every: pd.DataFrame, config: dict[str, Any], references: list[dict[str, Any]]
) -> pd.DataFrame:
    """Return a row for each problem: its setting, and where each method ends at worst."""
    worst = every.groupby(["problem", "method"])["regret"].max().unstack()
    # What has not run yet is a dash.
    worst = worst.reindex([one["problem"] for one in references], columns=config["methods"])
    setting = {one["name"]: one for one in config["problems"]}
    lines = []
    for one in references:
        name = one["problem"]
        its = setting[name]
        ends = {label(m): percent(worst.loc[name, m]) for m in config["methods"]}
        about = f"{its['optimizer']}, {its['schedule']}, {its['steps']:,} steps"
        lines.append(
            {
                "problem": name,
                "split": one["split"],
                "setting": about,
                "best rate": f"{one['best_lr']:.3g}",
                "noise": percent(math.nan if one["noise"] is None else one["noise"])[1:],
                **ends,
            }
        )
    return pd.DataFrame(lines)


def _mean_loss(row: Sequence[Mapping[str, Any]]) -> float:
    return fmean(map(capped, row))
