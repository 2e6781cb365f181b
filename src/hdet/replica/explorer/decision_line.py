"""What a sync has decided, and on what evidence, as one line for a log. Pure text.

    lr factor 0.7 -> 0.65, larger is worse (t = 2.3, loss slope 0.004 +- 0.002)

The slope is the change of the loss from the base value to the outermost replica's, with its
standard error; t is their quotient.
"""

from collections.abc import Sequence

from .decision import Decision
from .dimensions import Dimension

_MOST = 6  # hyperparameters in one line
_CLEAR = 1.0  # |t| from which a slope is more than its error


def decision_line(
    dimensions: Sequence[Dimension],
    decision: Decision,
    before: Sequence[float],
    after: Sequence[float],
) -> str:
    """Return a sync's moves with their evidence.

    Args:
        dimensions: what is explored.
        decision: what became of the sync.
        before: the base value of each dimension until now.
        after: the same from now on.
    """
    alone = sum(d.is_rate for d in dimensions) == 1
    rows = [
        ("lr factor" if d.is_rate and alone else d.name, j) for j, d in enumerate(dimensions)
    ]
    slope, t = decision.slopes.slope, decision.slopes.t
    rows.sort(key=lambda row: -abs(t[row[1]]))  # what is shown first is the surest
    moves = [
        f"{name} {_move(before[j], after[j])}{_evidence(slope[j], t[j])}" for name, j in rows
    ]
    line = in_short(moves, "; ")
    if decision.excluded:
        line += f"; left out as diverged: {', '.join(map(str, decision.excluded))}"
    return line


def in_short(parts: Sequence[str], joint: str = ", ") -> str:
    """Return the first few of many parts in one line, and how many more there are."""
    more = len(parts) - _MOST
    return joint.join([*parts[:_MOST], *([f"{more} more"] if more > 0 else [])])


def _move(before: float, after: float) -> str:
    old, new = f"{before:.3g}", f"{after:.3g}"
    return f"stays at {new}" if old == new else f"{old} -> {new}"


def _evidence(slope: float, t: float) -> str:
    if t == 0:
        return ""
    verdict = "no clear slope"
    if abs(t) >= _CLEAR:
        verdict = "larger is worse" if t > 0 else "larger is better"
    return f", {verdict} (t = {t:.2g}, loss slope {slope:.2g} +- {abs(slope / t):.2g})"
