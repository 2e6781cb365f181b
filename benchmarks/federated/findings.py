"""All that a folder of the benchmark shows, in one place; what reports are made from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import grid, selections
from .units import Folder, unfinished, units
from .verdicts import Verdict, verdicts


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        rates: strategies over the grid of starts.
        selection: selectors at one strength of FedProx's term.
        mu: selectors at several.
        verdicts: what is wanted of our methods, and what was measured.
        settings: one run's by experiment and task; what differs between runs is in the rows.
        missing: how many runs have no result yet.
    """

    rates: Sequence[grid.Row]
    selection: Sequence[selections.Row]
    mu: Sequence[selections.Row]
    verdicts: Sequence[Verdict]
    settings: dict[str, dict[str, dict[str, Any]]]
    missing: int


def findings(folder: Folder) -> Findings:
    """Return what a folder shows, finished or not.

    Raises:
        ValueError: if it is no folder of this benchmark.
    """
    rates, selection = grid.rows(folder), selections.rows(folder)
    settings: dict[str, dict[str, dict[str, Any]]] = {}
    for unit in units(folder.plan()):
        tasks = settings.setdefault(unit.experiment, {})
        if unit.settings.task not in tasks:
            tasks[unit.settings.task] = asdict(unit.settings)
    return Findings(
        rates,
        selection,
        selections.mu_rows(folder),
        verdicts(rates, selection),
        settings,
        len(unfinished(folder)),
    )


def content(found: Findings) -> dict[str, Any]:
    """Return the findings for a file; what single seeds had is left to the results."""
    return {
        "verdicts": [asdict(one) for one in found.verdicts],
        "rates": [
            asdict(row)
            | {
                "cells": [_plain(cell) for cell in row.cells],
                "worst": _plain(row.worst),
                "lowest": _plain(row.lowest),
                "clearly_better": row.clear(1),
                "clearly_worse": row.clear(-1),
            }
            for row in found.rates
        ],
        "selection": [_without_values(row) for row in found.selection],
        "mu": [_without_values(row) for row in found.mu],
        "settings": found.settings,
        "missing": found.missing,
    }


def _plain(cell: grid.Cell) -> dict[str, Any]:
    """Return a cell on one level: there are hundreds of them."""
    gain = {f"gain_{name}": getattr(cell.gain, name) for name in ("mean", "low", "high")}
    return {
        name: value
        for name, value in (asdict(cell) | gain).items()
        if name not in {"gain", "by_seed"}
    }


def _without_values(row: selections.Row) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name != "values"}
