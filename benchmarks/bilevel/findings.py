"""All that a folder of the benchmark shows, in one place; what reports are made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..federated.paired import Interval
from .rows import Cell, Hindsight, Row, Run, crossover_runs, hindsight, prototypes, rows, starts
from .units import Folder, unfinished
from .verdicts import Verdict, verdicts


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        rows: methods on the tasks.
        hindsight: the best fixed accuracy of each task.
        prototypes: problem A at the paper's setting.
        crossover: what each method took, by condition number and method.
        verdicts: what is wanted of MAID, and what was measured.
        tasks: title, parameters, budget and start of each.
        missing: how many runs have no result yet.
    """

    rows: Sequence[Row]
    hindsight: Sequence[Hindsight]
    prototypes: Sequence[Row]
    crossover: Mapping[tuple[int, str], Run]
    verdicts: Sequence[Verdict]
    tasks: dict[str, dict[str, Any]]
    missing: int


def findings(folder: Folder) -> Findings:
    """Return what a folder shows, finished or not.

    Raises:
        ValueError: if it is no folder of this benchmark.
    """
    found, paper = rows(folder), prototypes(folder)
    return Findings(
        found,
        hindsight(found),
        paper,
        crossover_runs(folder),
        verdicts(found, paper),
        starts(folder),
        len(unfinished(folder)),
    )


def content(found: Findings) -> dict[str, Any]:
    """Return the findings for a file; single seeds are left to the results."""
    return {
        "verdicts": [asdict(one) for one in found.verdicts],
        "rows": [_row(row) for row in found.rows],
        "hindsight": [
            {
                "task": one.task,
                "method": one.row.method,
                "start": one.cell.start,
                "loss": one.cell.loss.mean,
                "ratios_to_maid": [_ratio(logs) for logs in one.log_ratios],
            }
            for one in found.hindsight
        ],
        "prototypes": [_row(row) for row in found.prototypes],
        "crossover": [
            {"condition": condition, "method": method}
            | {name: value for name, value in run.items() if name != "key"}
            for (condition, method), run in found.crossover.items()
        ],
        "tasks": found.tasks,
        "missing": found.missing,
    }


def _row(row: Row) -> dict[str, Any]:
    return asdict(row) | {
        "cells": [_cell(cell) for cell in row.cells],
        "spread": _mean(row.spread),
    }


def _cell(cell: Cell) -> dict[str, Any]:
    left_out = ("losses", "loss", "judged", "log_ratio")
    plain = {name: value for name, value in asdict(cell).items() if name not in left_out}
    judged = {name: _mean(one) for name, one in cell.judged.items()}
    return plain | {"judged": judged, "ratio_to_maid": _ratio(cell.log_ratio)}


def _mean(one: Interval) -> dict[str, float]:
    return {"mean": one.mean, "error": one.error}


def _ratio(logs: Interval) -> dict[str, float]:
    """Return a geometric mean with its 95 % interval."""
    return {name: _exp(getattr(logs, name)) for name in ("mean", "low", "high")}


def _exp(log: float) -> float:
    return math.exp(min(log, 700.0)) if log == log else math.nan
