"""Regret: how much worse a run ends than the best rate of a sweep would have.

    regret = mean held-out loss over seeds / reference - 1, in percent
    reference = the lowest mean held-out loss of plain DDP, over the sweep and the starts

The error is the standard error of the same ratio taken seed by seed, each against the
reference row's loss of that seed: seeds share weights and batches, so most of what differs
between them drops out. The best of many rows is chosen after the fact, which flatters the
reference and makes all regrets a little too large.

A run that diverged has an infinite regret, and so has every mean it is part of: it is
counted and shown, and a median stands beside, but it is never averaged away.
"""

import json
import math
from collections.abc import Sequence
from statistics import median, stdev
from typing import Any

import numpy as np
import pandas as pd

from ..core.page import table as markdown
from ..core.records import RECORDS
from ..core.statistics import estimate
from .methods import LABELS, OURS, PLAIN, START_FREE
from .study import Runs, start_label, start_point, sweep_lr, sweep_point

# Percent: what the worst start may cost, and what counts as robust.
TOLERANCE = 2.0


def references(runs: Runs) -> pd.DataFrame:
    """Return what regrets are measured against, of the problems whose sweep is done.

    Returns:
        By row: `problem`; `best_lr`, the sweep's best peak rate; `loss`, the lowest mean loss
        of plain DDP, and the losses `by_seed` of the row that has it; `at_edge`, whether the
        best rate is the outermost of the sweep even so.

    Raises:
        ValueError: if no rate of a sweep trains, or the best loss is not above 0.
    """
    found = []
    for problem in runs.settings.problems:
        best = runs.best_point(problem)
        if best is None:
            continue
        points = runs.sweep_points(problem)
        names = [sweep_point(p) for p in points]
        names += [start_point(PLAIN, start) for start in runs.settings.starts]
        rows = [runs.losses(problem.name, PLAIN, name) for name in names]
        chosen = min((row for row in rows if row), key=_mean)
        if _mean(chosen) <= 0:
            raise ValueError(
                f"the best loss on {problem.name} is {_mean(chosen):g}, and a regret is a "
                f"ratio of losses above 0: give the task a loss that stays above 0."
            )
        found.append(
            {
                "problem": problem.name,
                "best_lr": sweep_lr(problem, best),
                "loss": _mean(chosen),
                "by_seed": chosen,
                "at_edge": best in (points[0], points[-1]),
            }
        )
    return pd.DataFrame(found, columns=["problem", "best_lr", "loss", "by_seed", "at_edge"])


def cells(runs: Runs) -> pd.DataFrame:
    """Return a row for each problem, method and start whose seeds have all run."""
    found = []
    for against in references(runs).itertuples():
        for method in runs.settings.methods:
            for start in runs.settings.starts:
                losses = runs.losses(against.problem, method, start_point(method, start))
                if losses:
                    cell = regret(losses, against.loss, against.by_seed)
                    where = {"problem": against.problem, "method": method, "start": start}
                    found.append({**where, **cell})
    return pd.DataFrame(found)


def regret(
    losses: Sequence[float], reference: float, by_seed: Sequence[float]
) -> dict[str, float]:
    """Return the regret of one start; see the module's head for the rule.

    Returns:
        In percent `regret` of the mean loss, its standard `error`, NaN with one seed or if one
        diverged, and `middle`, the median over seeds; how many `diverged`, of how many `seeds`.
    """
    ratios = [_percent(loss, best) for loss, best in zip(losses, by_seed, strict=True)]
    diverged = sum(map(math.isinf, ratios))
    whole, error = _percent(_mean(losses), reference), math.nan
    if not diverged and len(ratios) > 1 and math.isfinite(whole):
        error = stdev(ratios) / math.sqrt(len(ratios))
    return {
        "regret": whole,
        "error": error,
        "middle": median(ratios),
        "diverged": diverged,
        "seeds": len(ratios),
    }


def standings(cells: pd.DataFrame) -> pd.DataFrame:
    """Return each method over its problems and starts, in the order of the cells."""
    found = []
    for method, mine in cells.groupby("method", sort=False):
        worst = mine.loc[mine["regret"].idxmax()]
        found.append(
            {
                "method": method,
                "mean": mine["regret"].mean(),
                "median": mine["regret"].median(),
                "worst": worst["regret"],
                "worst_problem": worst["problem"],
                "worst_start": worst["start"],
                "within": (mine["regret"] <= TOLERANCE).mean(),
                "diverged": mine["diverged"].sum(),
                "runs": mine["seeds"].sum(),
            }
        )
    return pd.DataFrame(found)


def standings_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the methods over all problems and starts, as texts."""
    lines = []
    for one in standings(cells).itertuples():
        where = "" if one.method in START_FREE else f" from {start_label(one.worst_start)}"
        lines.append(
            {
                "method": label(one.method),
                "mean": percent(one.mean),
                "median": percent(one.median),
                "worst": percent(one.worst),
                "worst on": f"{one.worst_problem}{where}",
                f"at most {TOLERANCE:g} %": f"{one.within:.0%}",
                "diverged": f"{one.diverged} of {one.runs}",
            }
        )
    return pd.DataFrame(lines)


def problem_table(cells: pd.DataFrame, problem: str) -> pd.DataFrame:
    """Return the methods on one problem by their starts, as texts."""
    mine = cells[cells["problem"] == problem]
    lines = []
    for method, row in mine.groupby("method", sort=False):
        texts = {start_label(c.start): cell_text(c) for c in row.itertuples()}
        ends = {"mean": percent(row["regret"].mean()), "worst": percent(row["regret"].max())}
        lines.append({"method": label(str(method)), **texts, **ends})
    return pd.DataFrame(lines).fillna("–")


def label(method: str) -> str:
    """Return how tables call a method; ° marks those that need no initial rate."""
    return LABELS.get(method, method) + ("°" if method in START_FREE else "")


def percent(value: float) -> str:
    """Return a regret for a table; `diverged` for what is infinite."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "diverged"
    if abs(value) >= 9999.5:
        mantissa, _, exponent = f"{value:+.0e}".partition("e")
        return f"{mantissa}e{int(exponent)} %"
    return f"{value:+.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f} %"


def cell_text(cell: Any) -> str:
    """Return a start for a table: regret and error, or how many seeds diverged."""
    if cell.diverged:
        middle = f", median {percent(cell.middle)}" if cell.diverged < cell.seeds else ""
        return f"diverged, {cell.diverged} of {cell.seeds}{middle}"
    error = f" ± {percent(cell.error).lstrip('+')}" if cell.error == cell.error else ""
    return percent(cell.regret).removesuffix(" %" if error else "") + error


def summary(runs: Runs) -> dict[str, Any]:
    """Return the numbers that a record has; null stands for what is not finite."""
    found, by = cells(runs), ["problem", "method"]
    return {
        "references": references(runs).to_dict("records"),
        "rows": [
            {**dict(zip(by, names, strict=True)), "cells": row.to_dict("records")}
            for names, row in found.groupby(by, sort=False)
        ],
    }


def values() -> dict[str, Any]:
    """Return the numbers that docs/robustness.md names."""
    record = RECORDS / "robustness"
    config, versions, found = (
        json.loads((record / f"{name}.json").read_text())
        for name in ("config", "environment", "summary")
    )
    every = _recorded(found)
    steps = {problem["name"]: problem["steps"] for problem in config["problems"]}
    return {
        "config": config,
        "versions": versions,
        "problems": [
            {
                **one,
                "steps": steps[one["problem"]],
                "table": problem_table(every, one["problem"]),
            }
            for one in found["references"]
        ],
        "ours": label(OURS),
        "standings": standings_table(every),
        "standing": {one["method"]: one for one in standings(every).to_dict("records")},
        "percent": percent,
        "at_best": every[(every["method"] == OURS) & (every["start"] == 1)].set_index(
            "problem"
        )["regret"],
    }


def readme() -> str:
    """Return the table over all problems and starts, as README.md has it."""
    found = json.loads((RECORDS / "robustness" / "summary.json").read_text())
    return markdown(standings_table(_recorded(found)), bold=label(OURS))


def _recorded(found: dict[str, Any]) -> pd.DataFrame:
    """Return a record's cells, with infinity for the nulls that stand for it."""
    every = pd.json_normalize(found["rows"], "cells", ["problem", "method"])
    infinite = every[["regret", "middle"]].astype(float).fillna(math.inf)
    return every.assign(**infinite, error=every["error"].astype(float))


def _percent(loss: float, best: float) -> float:
    """Return a regret in percent; infinite for what is not finite."""
    with np.errstate(all="ignore"):
        ratio = 100 * (np.float64(loss) / best - 1) if best > 0 else math.inf
    return float(ratio) if math.isfinite(ratio) else math.inf


def _mean(values: Sequence[float]) -> float:
    """Return the mean; infinite if a value is not finite, or their sum is not."""
    mean = estimate(values).mean
    return math.inf if math.isnan(mean) else mean
