"""The page of a user's own runs, from their records."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from . import rendering
from .figure import colour, dash, figure
from .files import names_of
from .record import Record, RecordError
from .words import (
    WRITTEN,
    cost,
    decisions,
    ended,
    evidence,
    evidence_note,
    groups,
    in_short,
    number,
    paste,
    status,
    summary,
    trials,
    trials_note,
)

_GENERATOR = '<meta name="generator" content="hdet">'
_HEADER = ("run", "you wrote", "found", "first loss", "last loss", "roll-backs", "steps")


def title_of(names: Sequence[str]) -> str:
    """Return the heading of a page about some runs."""
    return names[0] if len(names) == 1 else f"{len(names)} runs"


def parts(records: Sequence[Record]) -> tuple[str, Mapping[str, Any], Markup]:
    """Return title, figure and words of a page about some runs."""
    names = names_of([record.path for record in records])
    pairs = zip(records, names, strict=True)
    runs = [_run(record, name, n) for n, (record, name) in enumerate(pairs)]
    text = rendering.words("run.html", runs=runs, header=_HEADER, stands_for=WRITTEN)
    said, look = status(records)
    drawn = {**figure(records, names), "status": said, "look": look}
    return title_of(names), drawn, text


def write_report(records: Sequence[Record], out: Path) -> None:
    """Write the page of some runs."""
    title, drawn, text = parts(records)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(rendering.page(title, drawn, text, footer()), encoding="utf-8")


def page_beside(run: Path) -> Path:
    """Return where the page of a record, or of a folder with records, is written by default.

    Raises:
        RecordError: if something else is there.
    """
    out = run / "runs.html" if run.is_dir() else run.with_suffix(".html")
    if out.exists() and _GENERATOR not in out.read_text(encoding="utf-8", errors="replace"):
        raise RecordError(f"{out} is there and is no report: name another file by --out.")
    return out


def footer() -> str:
    """Return the last line of a page."""
    return f"hdet {version('hdet')}"


def _run(record: Record, name: str, place: int) -> dict[str, Any]:
    losses = [x for x in record.loss.base if x == x] or [x for x in record.probe.base if x == x]
    first, last = (losses[0], losses[-1]) if losses else (None, None)
    backs = sum(event.kind == "rollback" for event in record.events())
    found = in_short(record.found) if record.found else "–"
    about = [
        ("file", str(record.path)),
        ("last line", ended(record)),
        ("replicas", str(record.header.get("replicas", "–"))),
        ("explored", ", ".join(record.header["explored"]) or "nothing"),
        ("written by", f"hdet {record.header['hdet']}"),
    ]
    return {
        "name": name,
        "colour": colour(place),
        "dash": dash(place),
        "sentences": summary(record),
        "cells": [
            in_short(record.written),
            found,
            number(first),
            number(last),
            str(backs),
            f"{record.steps[-1]:,}",
        ],
        "paste": paste(record),
        "groups": groups(record),
        "trials": trials(record),
        "trials_note": trials_note(record),
        "evidence": evidence(record),
        "evidence_note": evidence_note(record),
        "decisions": decisions(record),
        "cost": cost(record),
        "about": about,
    }
