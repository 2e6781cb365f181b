"""What the page says of one task: losses, what the results are worth, how the runs went."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.parts import Picture, Section, Table
from .rows import Cell, Row
from .units import OURS, STARTS
from .words import count, loss, percent, power, ratio_with_error, with_error

# What results are judged by beside the loss: name, unit, decimals (None: as losses have them).
_MEASURES: dict[str, tuple[str, str, int | None]] = {
    "test_accuracy": ("test accuracy", "percent", 2),
    "psnr": ("PSNR", "dB", 2),
    "test_psnr": ("test PSNR", "dB", 2),
    "test_loss": ("test loss", "", None),
}
_NOISY = {"psnr": "noisy_psnr", "test_psnr": "noisy_test_psnr"}


def task_section(name: str, task: Mapping[str, Any], rows: Sequence[Row]) -> Section:
    """Return a task's section.

    Args:
        name: of the task.
        task: its title, parameters, budget and what its start is worth.
        rows: the methods on it.
    """
    strong = [i for i, row in enumerate(rows) if row.method == OURS]
    start = task["start"]
    measures = [name for name in _MEASURES if name in rows[0].cells[0].judged]
    return Section(
        f"{name}: {task['title']}",
        [
            f"{task['parameters']:,} hyperparameters, a cost of {task['budget']:,} for every "
            f"run; a loss of {_number(start['loss'])} at the start. {_seeds(rows)} "
            f"± is the standard error over seeds, the spread how much larger the "
            f"largest loss of the starts is than the smallest.",
            Table(["method", *_starts("loss, "), "spread"], _losses(rows), strong),
            "The loss over MAID's from the same start; above 1, MAID is lower.",
            Table(["method", *_starts("ratio, ")], _ratios(rows), strong),
            *_worth(rows, measures, start, strong),
            f"How the runs went, means over seeds and starts; stopped are those that ended "
            f"before their cost was spent, because no step was certain to go down, the numbers "
            f"allow no higher accuracy, or by a rule of the method's own.{_failures(rows)}",
            Table(_HEAD, _runs(rows), strong),
            Picture(f"loss-{name}", f"Loss by cost on {name}, a panel for each start"),
            Picture(f"accuracy-{name}", f"Accuracy by cost on {name}, a panel for each start"),
        ],
    )


_HEAD = (
    "method",
    "outer steps",
    "failed searches",
    "cost spent",
    "stopped",
    "failed",
    "seconds",
    "ms per step",
)


def _starts(before: str) -> list[str]:
    return [f"{before}{power(start)}" for start in STARTS]


def _seeds(rows: Sequence[Row]) -> str:
    """Return how many seeds there are, of each method where they differ."""
    counts = {len(row.seeds) for row in rows}
    if len(counts) == 1:
        (number,) = counts
        return f"Means over {number} seed{'s' if number > 1 else ''};"
    parts = ", ".join(f"{row.label} {len(row.seeds)}" for row in rows)
    return f"Means over seeds, as many as there are yet: {parts};"


def _losses(rows: Sequence[Row]) -> list[list[str]]:
    return [
        [row.label, *(loss(cell.loss) for cell in row.cells), percent(row.spread)]
        for row in rows
    ]


def _ratios(rows: Sequence[Row]) -> list[list[str]]:
    return [
        [
            row.label,
            *("1" if row.method == OURS else ratio_with_error(c.log_ratio) for c in row.cells),
        ]
        for row in rows
    ]


def _worth(
    rows: Sequence[Row],
    measures: Sequence[str],
    start: Mapping[str, float],
    strong: Sequence[int],
) -> list[str | Table]:
    """Return the tables of what results are worth beside their loss."""
    parts: list[str | Table] = []
    for pair in (measures[i : i + 2] for i in range(0, len(measures), 2)):
        said = "; ".join(_at_start(name, start) for name in pair)
        head = [f"{_MEASURES[name][0]}, {power(x)}" for name in pair for x in STARTS]
        texts = [
            [row.label, *(_measured(cell, name) for name in pair for cell in row.cells)]
            for row in rows
        ]
        parts += [f"{said[0].upper()}{said[1:]}.", Table(["method", *head], texts, strong)]
    return parts


def _at_start(name: str, start: Mapping[str, float]) -> str:
    """Return a measure's name and unit, and what it is before anything is learned."""
    words, unit, digits = _MEASURES[name]
    shown = f"{words}{unit and f' in {unit}'}: {_number(start[name], digits)} at the start"
    if name not in _NOISY:
        return shown
    return f"{shown}, {_number(start[_NOISY[name]], digits)} of the noisy images"


def _measured(cell: Cell, name: str) -> str:
    digits, value = _MEASURES[name][2], cell.judged[name]
    return loss(value) if digits is None else with_error(value, digits)


def _runs(rows: Sequence[Row]) -> list[list[str]]:
    return [
        [
            row.label,
            count(_mean([cell.steps for cell in row.cells])),
            count(_mean([cell.failed_searches for cell in row.cells])),
            count(round(_mean([cell.cost for cell in row.cells]))),
            f"{sum(cell.stuck for cell in row.cells)} of {row.runs}",
            f"{sum(cell.failed for cell in row.cells)} of {row.runs}",
            f"{_mean([cell.seconds for cell in row.cells]):.1f}",
            count(_mean([cell.milliseconds for cell in row.cells])),
        ]
        for row in rows
    ]


def _failures(rows: Sequence[Row]) -> str:
    if not any(cell.failed for row in rows for cell in row.cells):
        return ""
    return (
        " Failed are those that came to where the lower level is not finite, or not as convex "
        "as it should be; they are judged at the last point before."
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _number(value: float, digits: int | None = None) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"
