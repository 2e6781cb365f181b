"""The federated part of README.md, from the record: two tables and one sentence each."""

from collections.abc import Sequence
from pathlib import Path

from . import grid, selections
from .findings import findings
from .units import Folder
from .words import mean, signed

RECORD = Path(__file__).parent / "records" / "federated"
_STRATEGIES = (
    "fedhyper", "fedhyper-g+cl-paper", "fedavg", "fedexp", "fedadam", "decay-sl",
    "delta-sgd", "delta-sgd-paper",
)  # fmt: skip


def readme_tables(folder: Path = RECORD) -> str:
    """Return the tables as they stand in README.md."""
    found = findings(Folder(folder))
    return "\n".join([*_starts(found.rates), "", *_selectors(found.selection)])


def _starts(rows: Sequence[grid.Row]) -> list[str]:
    tasks = list(dict.fromkeys(row.task for row in rows))
    by_name = {(row.task, row.strategy): row for row in rows}
    lines = ["| 25 starts | " + " | ".join(f"{t}: mean | worst start" for t in tasks) + " |"]
    lines += ["|---|" + "---|" * (2 * len(tasks))]
    for name in _STRATEGIES:
        cells = []
        for task in tasks:
            row = by_name[task, name]
            cells += [mean(row.mean, 1), f"{row.worst.accuracy:.1f}"]
        label = by_name[tasks[0], name].label
        bold = f"**{label}**" if name == "fedhyper" else label
        lines.append(f"| {bold} | " + " | ".join(cells) + " |")
    return lines


def _selectors(rows: Sequence[selections.Row]) -> list[str]:
    tasks = list(dict.fromkeys(row.task for row in rows))
    by_name = {(row.task, row.selector): row for row in rows}
    head = " | ".join(f"{t}: less Random | late deviation" for t in tasks)
    lines = [f"| selector | {head} |", "|---|" + "---|" * (2 * len(tasks))]
    for name in dict.fromkeys(row.selector for row in rows):
        cells = []
        for task in tasks:
            row = by_name[task, name]
            cells += [
                signed(row.against["last"]) if name != "random" else "",
                f"{row.means['late_deviation'].mean:.2f}",
            ]
        label = by_name[tasks[0], name].label
        bold = f"**{label}**" if name == "hetero-select" else label
        lines.append(f"| {bold} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    print(readme_tables())
