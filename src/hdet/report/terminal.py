"""A run in a terminal: the curves of rate and loss in block characters, and what happened."""

import math
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .record import Record
from .words import cost, decisions, evidence, number, paste, short, status, summary

_BLOCKS = " ▁▂▃▄▅▆▇█"
_HEIGHT = 3  # lines of a curve
_WORDS = 150  # letters of a decision


def curve(values: Sequence[float], width: int, height: int, log: bool = False) -> list[str]:
    """Return a curve in lines of block characters, the upper one first.

    Args:
        values: over the run; what is not finite leaves a gap.
        width: columns; each shows the median of its values.
        height: lines.
        log: whether the axis is logarithmic.
    """
    if log:
        values = [math.log(x) if x > 0 else math.nan for x in values]
    width = min(width, len(values))
    columns = []
    for i in range(width):
        part = values[len(values) * i // width : len(values) * (i + 1) // width]
        known = sorted(x for x in part if math.isfinite(x))
        columns.append(known[len(known) // 2] if known else math.nan)
    known = [x for x in columns if x == x]
    if not known:
        return [""] * height
    low, high = min(known), max(known)
    if not log:
        # What has diverged must not flatten the rest.
        most = sorted(known)[int(0.8 * (len(known) - 1))]
        high = min(high, max(known[0] + 0.35 * (known[0] - low), most + 2 * (most - low)))
    levels = [_level(x, low, high, 8 * height) for x in columns]
    rows = range(height - 1, -1, -1)
    return ["".join(_BLOCKS[min(max(x - 8 * row, 0), 8)] for x in levels) for row in rows]


def _level(x: float, low: float, high: float, most: int) -> int:
    """Return how many eighths of a line a value is high: at least one where there is one."""
    if x != x:
        return 0
    share = (x - low) / (high - low) if high > low else 0.5
    return 1 + round(min(share, 1.0) * (most - 1))


def shown(record: Record, name: str, width: int) -> RenderableType:
    """Return what `hdet show` prints of a run.

    Args:
        record: the run.
        name: its name.
        width: columns.
    """
    phase = record.spans()[-1][0]
    head = Text.assemble(
        (name, "bold"), f"   step {record.steps[-1]:,}   phase ", (phase, "cyan")
    )
    parts: list[RenderableType] = [head, ""]
    drawn = [("learning rate", record.rates[0].base, True)] if record.rates else []
    loss = record.loss if record.loss.known else record.probe
    drawn.append(("loss", loss.base, False))
    for title, values, log in drawn:
        known = [x for x in values if x == x]
        if known:
            ends = f"{title}   {number(known[0])} → {number(known[-1])}"
            parts.append(Text(ends))
            lines = curve(values, width - 4, _HEIGHT, log)
            parts.append(Padding(Text("\n".join(lines), style="blue"), (0, 2)))
    said, look = status([record])
    style = {"good": "green", "warn": "yellow"}.get(look, "cyan")
    parts += ["", Text(said, style=style), Text(" ".join(summary(record))), ""]
    if found := paste(record):
        parts += [Padding(Text(found, style="bold green"), (0, 2)), ""]
    parts += [Text(f"- {short(words, _WORDS)}") for words in decisions(record)]
    if rows := evidence(record):
        table = Table("hyperparameter", "value", "slope", "t", "verdict", box=None)
        for row in rows:
            table.add_row(*map(Text, row))
        parts += ["", table]
    parts += ["", Text(", ".join(f"{name} {value}" for name, value in cost(record)))]
    return Group(*parts)


def show(console: Console, records: Sequence[Record], names: Sequence[str]) -> None:
    """Print runs one after the other."""
    for i, (record, name) in enumerate(zip(records, names, strict=True)):
        if i:
            console.rule()
        console.print(shown(record, name, console.width), highlight=False)
