"""How regrets read in tables, and what is wanted of our method against what was measured."""

import math
from collections.abc import Sequence

from .methods import OURS
from .regret import TOLERANCE, Cell, Standing


def verdicts(standings: Sequence[Standing]) -> list[dict[str, str | bool]]:
    """Return what is wanted of our method: `wanted`, `measured`, and whether `reached`.

    Empty if our method has not run.
    """
    ours = next((one for one in standings if one.method == OURS), None)
    if ours is None:
        return []
    others = [one for one in standings if one.method != OURS]
    found: list[tuple[str, str, bool]] = [
        ("mean regret below 0 %", percent(ours.mean), ours.mean < 0),
        (
            f"worst regret at most {TOLERANCE:g} %",
            f"{percent(ours.worst)} on {ours.worst_at[0]}",
            ours.worst <= TOLERANCE,
        ),
    ]
    if ours.at_best:
        name = max(ours.at_best, key=lambda problem: ours.at_best[problem])
        kept = sum(regret <= 0 for regret in ours.at_best.values())
        found.append(
            (
                "regret from the best rate at most 0 % on every problem",
                f"on {kept} of {len(ours.at_best)}; "
                f"highest {percent(ours.at_best[name])} on {name}",
                kept == len(ours.at_best),
            )
        )
    if others:
        ahead = [one for one in others if not ours.worst < one.worst]
        names = ", ".join(f"{one.label} ({percent(one.worst)})" for one in ahead)
        found.append(
            (
                "worst regret below that of every other method",
                f"{percent(ours.worst)}; not below {names}" if ahead else "below all",
                not ahead,
            )
        )
    keys = ("wanted", "measured", "reached")
    return [dict(zip(keys, one, strict=True)) for one in found]


def percent(value: float | None) -> str:
    """Return a regret for a table; `diverged` for what is infinite (in JSON, null)."""
    if value is None or math.isinf(value):
        return "diverged"
    if math.isnan(value):
        return "–"
    if abs(value) >= 9999.5:
        mantissa, _, exponent = f"{value:+.0e}".partition("e")
        return f"{mantissa}e{int(exponent)} %"
    return f"{value:+.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f} %"


def cell_text(cell: Cell) -> str:
    """Return a start for a table: regret and error, or how many seeds diverged."""
    if cell.diverged:
        middle = f", median {percent(cell.middle)}" if cell.diverged < cell.seeds else ""
        return f"diverged, {cell.diverged} of {cell.seeds}{middle}"
    error = f" ± {percent(cell.error).lstrip('+')}" if cell.error == cell.error else ""
    return percent(cell.regret).removesuffix(" %" if error else "") + error
