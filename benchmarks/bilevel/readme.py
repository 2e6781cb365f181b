"""The bilevel part of README.md, from the record: one table."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from .findings import findings
from .rows import Row
from .units import OURS, Folder
from .words import times

RECORD = Path(__file__).parent / "records" / "bilevel"
_ROWS = (
    "maid-paper",
    "fixed",
    "fixed-paper",
    "hoag-exponential",
    "hoag-quadratic",
    "hoag-cubic",
    "dfo-ls",
)


def readme_table(folder: Path = RECORD) -> str:
    """Return the table as it stands in README.md."""
    found = findings(Folder(folder))
    by_name = {(row.task, row.method): row for row in found.rows}
    lines = ["| loss over MAID's | " + " | ".join(found.tasks) + " |"]
    lines.append("|---|" + "---|" * len(found.tasks))
    losses = []
    for task, facts in found.tasks.items():
        ends = [cell.loss.mean for cell in by_name[task, OURS].cells]
        losses.append(f"{facts['start']['loss']:,.4g} → {_range(ends)}")
    lines.append(f"| **MAID: the loss itself** | {' | '.join(losses)} |")
    for method in _ROWS:
        rows = [by_name.get((task, method)) for task in found.tasks]
        label = next(row.label for row in rows if row)
        lines.append(f"| {label} | {' | '.join(map(_cell, rows))} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    logs = [cell.log_ratio.mean for cell in row.cells]
    return f"{times(fmean(logs))} (at worst {times(max(logs))})"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    digits = max(0, 2 - math.floor(math.log10(low)))
    ends = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return ends[0] if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"


if __name__ == "__main__":
    print(readme_table())
