"""What the page and the report show: tables of texts, and numbers of sentences."""

import math
import shlex
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from ..bilevel_speed.analysis import table as speed_table
from ..core.records import RECORDS, record
from ..core.statistics import Estimate, estimate
from . import crossover
from .findings import (
    Runs,
    by_start,
    comparison,
    crossover_runs,
    duels,
    each,
    hindsight,
    of,
    prototype,
    spread,
)
from .formats import count, loss, percent, power, ratio, ratio_interval, times
from .methods import BASELINES, CERTIFIED, FIXED, METHODS, OURS, PROTOTYPES
from .study import BUDGETS, COMMAND, STARTS, Folder, Plan

RECORD = RECORDS / "bilevel"
# Measures of a result beside the loss: name, and decimals (None: as losses have them).
_MEASURES: dict[str, tuple[str, int | None]] = {
    "test_accuracy": ("test accuracy", 2),
    "psnr": ("PSNR", 2),
    "test_psnr": ("test PSNR", 2),
    "test_loss": ("test loss", None),
}
_IN_CROSSOVER = {
    "outer": "outer steps",
    "descent": "iterations of gradient descent in the lower level",
    "cost": "lower gradients, Hessian-vector and mixed products",
}
# The methods of the page's first table.
_SHOWN = (
    "maid-paper", *FIXED, "hoag-exponential", "hoag-quadratic", "hoag-cubic", "dfo-ls",
)  # fmt: skip


def losses(runs: Runs) -> pd.DataFrame:
    """Return one task's losses by method and start."""
    return pd.DataFrame(
        {
            "method": label,
            **_columns("loss", map(loss, by_start(mine, "judged loss"))),
            "spread": percent(spread(mine)),
        }
        for _, label, mine in each(runs)
    )


def ratios(runs: Runs) -> pd.DataFrame:
    """Return one task's losses over MAID's."""
    rows = []
    for name, label, mine in each(runs):
        texts = ["1"] * 3 if name == OURS else map(ratio, by_start(mine, "log_ratio"))
        rows.append({"method": label, **_columns("ratio", texts)})
    return pd.DataFrame(rows)


def measures(runs: Runs) -> list[pd.DataFrame]:
    """Return one task's tables of further measures, two in each."""
    names = [name for name in _MEASURES if f"judged {name}" in runs.dropna(axis=1, how="all")]
    return [
        pd.DataFrame(
            {"method": label} | {k: v for name in pair for k, v in _measured(mine, name)}
            for _, label, mine in each(runs)
        )
        for pair in (names[i : i + 2] for i in range(0, len(names), 2))
    ]


def _measured(runs: Runs, name: str) -> Iterator[tuple[str, str]]:
    words, decimals = _MEASURES[name]
    found = by_start(runs, f"judged {name}")
    texts = [loss(one) if decimals is None else f"{one:.{decimals}f}" for one in found]
    yield from _columns(words, texts).items()


def course(runs: Runs) -> pd.DataFrame:
    """Return how the runs on one task went, means over seeds and starts."""
    rows = []
    for _, label, mine in each(runs):
        totals = mine.groupby("start")[["steps", "seconds"]].sum()
        # NaN where no step was made from one of the starts.
        pace = 1000 * totals["seconds"] / totals["steps"].replace(0, np.nan)
        rows.append(
            {
                "method": label,
                "outer steps": count(mine["steps"].mean()),
                "failed searches": count(mine["failed_searches"].mean()),
                "cost spent": count(round(mine["cost"].mean())),
                "stopped": f"{mine['stuck'].sum()} of {len(mine)}",
                "failed": f"{(mine['failure'] != '').sum()} of {len(mine)}",
                "seconds": f"{mine['seconds'].mean():.1f}",
                "ms per step": count(pace.mean(skipna=False)),
            }
        )
    return pd.DataFrame(rows)


def intervals(runs: Runs) -> pd.DataFrame:
    """Return each baseline's ratios to MAID's loss with their intervals."""
    return pd.DataFrame(
        {
            "task": task,
            "method": label,
            **_columns("ratio", map(ratio_interval, by_start(mine, "log_ratio"))),
        }
        for task in runs["task"].unique()
        for name, label, mine in each(runs[runs["task"] == task])
        if name in BASELINES
    )


def hindsight_table(runs: Runs) -> pd.DataFrame:
    """Return that, beside MAID's own losses."""
    return pd.DataFrame(
        {
            "task": task,
            "best fixed accuracy": f"{power(one['start'])}, {METHODS[one['method']].label}",
            "its loss": loss(one["loss"]),
            **_columns("MAID", map(_mean_loss, by_start(of(runs, task, OURS), "judged loss"))),
            **_columns("ratio", map(ratio, one["log_ratios"])),
        }
        for task, one in hindsight(runs).items()
    )


def prototypes(runs: Runs) -> pd.DataFrame:
    """Return how MAID as printed does on problem A at the paper's setting."""
    return pd.DataFrame(
        {
            "method": label,
            "eps0 = delta0": power(start),
            "loss": loss(estimate(its["judged loss"])),
            "failed searches": count(its["failed_searches"].mean()),
            "outer steps": count(its["steps"].mean()),
            "cost": count(its["cost"].mean()),
            "seconds": f"{its['seconds'].mean():.1f}",
        }
        for _, label, mine in each(runs, PROTOTYPES)
        for start in STARTS
        for its in [mine[mine["start"] == start]]
    )


def crossover_tables(runs: Runs) -> dict[str, pd.DataFrame]:
    """Return steps, iterations and cost by condition number; a dash where f was not reached."""
    made = {}
    for measure, title in _IN_CROSSOVER.items():
        texts = runs[measure].map("{:,}".format).where(runs["reached"], "–")
        table: Any = runs.assign(text=texts).pivot(
            index="method", columns="condition", values="text"
        )
        table = table.reindex([name for name in crossover.METHODS if name in table.index])
        table.index = [crossover.METHODS[name] for name in table.index]
        if measure == "outer" and tuple(table.columns) == crossover.CONDITIONS:
            for name, steps in crossover.PUBLISHED.items():
                table.loc[f"published: {crossover.METHODS[name]}"] = [*map(str, steps)]
        table.columns = [f"condition {condition}" for condition in table.columns]
        made[title] = table.fillna("–").rename_axis("method").reset_index()
    return made


def tables(folder: Folder) -> dict[str, pd.DataFrame]:
    """Return all tables of a folder, finished or not, by their titles."""
    runs, paper, crossed = comparison(folder), prototype(folder), crossover_runs(folder)
    made = {}
    if len(runs):
        made["The best fixed accuracy, picked in hindsight"] = hindsight_table(runs)
    for task in [] if runs.empty else runs["task"].unique():
        its = runs[runs["task"] == task]
        made[f"{task}: loss"] = losses(its)
        made[f"{task}: loss over MAID's"] = ratios(its)
        for k, table in enumerate(measures(its), 1):
            made[f"{task}: further measures, {k}"] = table
        made[f"{task}: how the runs went"] = course(its)
    if len(paper):
        made["Problem A at the paper's setting"] = prototypes(paper)
    if len(crossed):
        for title, table in crossover_tables(crossed).items():
            made[f"By condition number: {title}"] = table
    return made


def command(plan: Plan) -> str:
    """Return the command that makes such a folder again."""
    words = [*COMMAND.split(), "--experiments", ",".join(plan.experiments)]
    if plan.tasks != list(BUDGETS):
        words += ["--tasks", ",".join(plan.tasks)]
    return shlex.join([*words, "--seeds", str(plan.seeds), "--scale", f"{plan.scale:g}"])


def values() -> dict[str, Any]:
    """Return the numbers that docs/results/bilevel.md names."""
    folder = Folder(RECORD)
    runs, paper, crossed = comparison(folder), prototype(folder), crossover_runs(folder)
    others = runs[runs["method"] != OURS].groupby(["task", "method", "start"])["log_ratio"]
    signs = others.apply(lambda logs: estimate(logs).sign)
    duel, speed = duels(runs), record("bilevel_speed")
    cost = crossed.pivot(index="method", columns="condition", values="cost")
    lowest = duel["lower"] == 0
    first = {task: runs[runs["task"] == task].iloc[0] for task in BUDGETS}
    return {
        "command": command(folder.plan()),
        "environment": folder.environment(),
        "plan": folder.plan(),
        "first": first,
        "summary": ratios_table(runs, list(BUDGETS)),
        "spread": {task: spread(of(runs, task, OURS)) for task in BUDGETS},
        "logs": {
            task: {
                name: by_start(mine, "log_ratio")
                for name, _, mine in each(runs[runs["task"] == task])
            }
            for task in BUDGETS
        },
        "hoag": [
            log
            for task in BUDGETS
            for name in METHODS
            if name.startswith("hoag")
            for log in by_start(of(runs, task, name), "log_ratio")
        ],
        "psnr": by_start(of(runs, "foe", OURS), "judged psnr"),
        "noisy_psnr": by_start(of(runs, "foe", OURS), "judged noisy_psnr")[0],
        "dfo_cost": of(runs, "quadratic", "dfo-ls")["cost"].mean(),
        "pairs": len(signs),
        "lower": int((signs > 0).sum()),
        "higher": int((signs < 0).sum()),
        "lowest": int(lowest.sum()),
        "surely_lowest": int((lowest & (duel["above"] == duel["baselines"])).sum()),
        "duels": len(duel),
        "intervals": intervals(runs),
        "hindsight": hindsight(runs),
        "hindsight_table": hindsight_table(runs),
        "certified_searches": _searches(of(runs, "quadratic", CERTIFIED)),
        "paper_searches": _searches(paper[paper["method"] == "certified"]),
        "paper_losses": by_start(paper[paper["method"] == "certified"], "judged loss"),
        "crossover": crossover_tables(crossed)[_IN_CROSSOVER["cost"]],
        "cheaper": cost.lt(cost.loc["fixed"]).T.to_dict("list"),
        "times": times,
        "percent": percent,
        "speed": speed,
        # Against the quicker of two ways in NumPy, where there are two.
        "slower": [
            max(one["outer step, ratio of medians"] for one in its["hdet against"].values())
            for its in speed["problems"].values()
        ],
        "speed_table": speed_table(speed["problems"]),
    }


def _searches(runs: Runs) -> list[str]:
    return [count(one.mean) for one in by_start(runs, "failed_searches")]


def ratios_table(runs: Runs, tasks: Sequence[str]) -> pd.DataFrame:
    """Return MAID's losses, and the others' over them: mean and worst over the starts."""
    rows = [{"method": "**MAID: the loss itself**"}]
    for task in tasks:
        start = runs[runs["task"] == task].drop_duplicates("seed")["start loss"].mean()
        ends = [one.mean for one in by_start(of(runs, task, OURS), "judged loss")]
        rows[0][task] = f"{start:,.4g} → {_range(ends)}"
    for name in _SHOWN:
        row = {"method": METHODS[name].label}
        for task in tasks:
            logs = [one.mean for one in by_start(of(runs, task, name), "log_ratio")]
            missing = math.isnan(logs[0])
            row[task] = "" if missing else f"{times(fmean(logs))} / {times(max(logs))}"
        rows.append(row)
    return pd.DataFrame(rows)


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    decimals = max(0, 2 - math.floor(math.log10(low)))
    ends = f"{low:.{decimals}f}", f"{high:.{decimals}f}"
    return ends[0] if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"


def _columns(before: str, texts: Any) -> dict[str, str]:
    return {
        f"{before}, {power(start)}": text for start, text in zip(STARTS, texts, strict=True)
    }


def _mean_loss(one: Estimate) -> str:
    return loss(one).partition(" ±")[0]
