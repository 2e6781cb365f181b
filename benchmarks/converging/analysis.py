"""What docs/results/converging.md says, from the record of the protocol's runs."""

import statistics
from typing import Any

import pandas as pd

from ..core.records import record
from ..core.statistics import estimate

CONTROL, EXPERIMENT = "control", "explorer"
STARTS = ("best", "below", "above")


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    found = record("converging")
    ends = {(row["arm"], place(row, found)): losses(row) for row in found["rows"]}
    return {
        "run": found,
        "results": table(found),
        "regret": {start: regret(ends[EXPERIMENT, start], found) for start in STARTS},
        "control": {start: regret(ends[CONTROL, start], found) for start in STARTS},
    }


def place(row: dict[str, Any], found: dict[str, Any]) -> str:
    """Return where a row starts: at the sweep's best rate, below it or above it."""
    if row["start"] == found["best"]:
        return "best"
    return "below" if row["start"] < found["best"] else "above"


def losses(row: dict[str, Any]) -> list[float]:
    """Return the held-out losses at the end, by seed."""
    return [run["held_out"] for run in row["runs"]]


def regret(ends: list[float], found: dict[str, Any]) -> float:
    """Return how far losses are above the control's at the best rate, in percent."""
    best = next(
        losses(row)
        for row in found["rows"]
        if row["arm"] == CONTROL and row["start"] == found["best"]
    )
    return 100 * statistics.fmean(e / b - 1 for e, b in zip(ends, best, strict=True))


def table(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row for each start: how control and Explorer end, and at which rate."""
    lines = []
    words = {
        "below": f"{found['far']:g} times too low",
        "above": f"{found['far']:g} times too high",
    }
    for start in STARTS:
        rows = {row["arm"]: row for row in found["rows"] if place(row, found) == start}
        ours = rows[EXPERIMENT]
        lines.append(
            {
                "start": words.get(start, "the sweep's best"),
                "peak rate": f"{ours['start']:.2g}",
                "control": f"{estimate(losses(rows[CONTROL])):.3f}",
                "Explorer": f"{estimate(losses(ours)):.3f}",
                "highest rate after the search": ", ".join(
                    f"{max(after_search(run)):.2g}" for run in ours["runs"]
                ),
            }
        )
    return pd.DataFrame(lines)


def after_search(run: dict[str, Any]) -> list[float]:
    """Return the rates in effect once a search has surely ended, at half of the run."""
    return [
        lr
        for step, lr in zip(run["steps"], run["lrs"], strict=True)
        if 2 * step >= run["steps"][-1]
    ]
