"""What the pictures of a page are drawn from: panels, series, bands and marks in plain numbers.

The page's script (`page.js`) draws any such figure by plotly, with one cursor over all its
panels. Here a figure is made of records; `picture` makes one of a demo's runs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .lines import MOST_DRAWN, Quantity
from .record import Record
from .thinning import rows_to_draw
from .words import short

# Blue, vermilion, green, purple, grey, ochre: colour-blind readers can tell them apart, and
# each stands out by 3 to 1 from the light and from the dark ground.
COLOURS = ("#2f83d6", "#d9572b", "#16966f", "#a05fc4", "#7d8794", "#ad7d12")
DASHES = ("solid", "dash", "dot")
_CELLS = 150_000  # numbers of all runs together, about seven bytes each
_ROWS = 4000  # of one run
_LINES = 16  # replicas that get lines of their own; of more, the lowest and the highest
_EVENTS = 200  # of one run
_WORDS = 220  # letters of a decision

NAMES = {"rollback": "roll-back", "left out": "replica left out", "new level": "new level"}


def figure(records: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """Return the figure of some runs, laid over each other.

    Args:
        records: the runs.
        names: theirs, in the same order.
    """
    rates = max((len(record.rates) for record in records), default=1)
    others = list(dict.fromkeys(name for record in records for name in record.others))
    others = others[:MOST_DRAWN]
    places = {other: place for place, other in enumerate(others, rates)}
    share = _CELLS // max(len(records), 1)
    choices = [{"title": _rate_title(g, rates), "log": True} for g in range(rates)]
    choices += [{"title": name, "log": False} for name in others]
    return {
        "x": "optimizer step",
        "choices": choices,
        "panels": [choices[0], {"title": "loss", "clip": True}],
        "runs": [
            _run(record, name, number, places, share)
            for number, (record, name) in enumerate(zip(records, names, strict=True))
        ],
    }


def colour(number: int) -> str:
    """Return the colour of a run."""
    return COLOURS[number % len(COLOURS)]


def dash(number: int) -> str:
    """Return the stroke of a run: where colours begin anew, it differs."""
    return DASHES[number // len(COLOURS) % len(DASHES)]


def _rate_title(group: int, groups: int) -> str:
    return "learning rate" if groups == 1 else f"learning rate, group {group}"


def _run(
    record: Record, name: str, number: int, others: Mapping[str, int], cells: int
) -> dict[str, Any]:
    """Return a run with its curves; `others` are the choices of what else is explored."""
    drawn = [*record.rates, *record.others.values(), record.loss, record.probe]
    columns = sum(1 + min(len(quantity.replicas), _LINES) for quantity in drawn)
    most = min(_ROWS, max(60, cells // columns))
    rows = rows_to_draw(record, drawn, most)
    written, found = record.written, record.found or []
    curves = [
        {
            **_curve(quantity, rows, 0, "base"),
            "choice": g,
            "written": written[g] if g < len(written) else None,
            "found": found[g] if g < len(found) else None,
        }
        for g, quantity in enumerate(record.rates)
    ]
    for other, choice in others.items():
        if other in record.others:
            curves.append({**_curve(record.others[other], rows, 0, "base"), "choice": choice})
    for kind, quantity in (("training loss", record.loss), ("probe loss", record.probe)):
        if quantity.known:
            curves.append(_curve(quantity, rows, 1, kind))
    # A decision says its step itself.
    words = {i: record.words[row] for i, row in enumerate(rows) if row in record.words}
    return {
        "name": name,
        "colour": colour(number),
        "dash": dash(number),
        "x": [record.steps[row] for row in rows],
        "spans": [(p, record.steps[a], record.steps[b]) for p, a, b in record.spans()],
        "curves": curves,
        "words": {i: short(text.split(": ", 1)[-1], _WORDS) for i, text in words.items()},
        "events": [
            {"step": record.steps[e.row], "kind": NAMES[e.kind]}
            for e in record.events()[-_EVENTS:]
        ],
        "resumed": record.resumed,
    }


def _curve(quantity: Quantity, rows: Sequence[int], panel: int, kind: str) -> dict[str, Any]:
    """Return the rows of the run's number and of its replicas', null where there is none."""
    replicas: list[list[float]] = [[c[row] for row in rows] for c in quantity.replicas]
    if len(replicas) > _LINES:
        finite = [
            [x for x in row if x == x] or [math.nan] for row in zip(*replicas, strict=True)
        ]
        replicas = [[min(row) for row in finite], [max(row) for row in finite]]
    base = [quantity.base[row] for row in rows] if len(quantity.base) else []
    if all(_same(column, base) for column in replicas):
        replicas = []
    return {
        "panel": panel,
        "kind": kind,
        "y": _plain(base),
        "replicas": [_plain(column) for column in replicas],
    }


def _same(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(a == b or (a != a and b != b) for a, b in zip(first, second, strict=True))


def _plain(column: Sequence[float]) -> list[float | None]:
    return [float(f"{x:.5g}") if math.isfinite(x) else None for x in column]
