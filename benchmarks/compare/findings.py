"""What a comparison found, in sentences: the paper's claims first, then the controls'.

Every sentence begins with a verdict on its claim. A difference is shown if it is larger
than two of its standard errors, and called noise otherwise, whichever way it points;
one seed has no error, and shows nothing but a loss that is not finite.

Rows that start from the checkpoint have trained longer than rows that do not. The
paper compares them all the same, with the low rate from random weights; beside that
comparison stands one with the plain row `ddp-warm-low`, which has trained as long.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from .rows import Difference, Row, difference, number, with_error

_HDET = ("hdet-no-auto-lr", "hdet-no-warm-start", "hdet-full")
# What a claim is worth, by what was seen of the first row's loss: that it ends lower,
# higher, or at least level.
_EITHER = {
    "noise": "Not shown, within noise",
    "neither": "Not shown, neither is finite",
}
_LOWER = _EITHER | {
    "lower": "Shown",
    "higher": "Not shown, the reverse is",
    "lower, one seed": "Points that way",
    "higher, one seed": "Points the other way",
}
_HIGHER = _EITHER | {
    "higher": "Shown",
    "lower": "Not shown, the reverse is",
    "higher, one seed": "Points that way",
    "lower, one seed": "Points the other way",
}
_LEVEL = _LOWER | {"noise": "Shown, level within noise", "higher": "Not shown"}


def findings(rows: Sequence[Row]) -> list[str]:
    """Say of the paper's claims, and of the controls', what these rows show.

    Args:
        rows: from `summarise`; comparisons that miss a row are left out.

    Returns:
        One sentence a comparison, each with its numbers.
    """
    by = {row.name: row for row in rows}
    low, warm_low, full = map(by.get, ("baseline-low", "ddp-warm-low", "hdet-full"))
    tenth = by.get("auto-lr-from-tenth")
    said = []
    for row in map(by.get, _HDET):
        said.append(_say(row, "ends lower than the paper's reference,", low))
        if row and row.warm_start:
            fair = "ends lower than plain DDP from the same checkpoint,"
            said.append(_say(row, fair, warm_low))
    for row in map(by.get, ("baseline-high", "warm-init")):
        claim, verdicts = "diverges or ends higher than", _HIGHER
        if row and row.diverged:
            claim = f"diverges ({row.diverged} of {row.seeds}) or ends higher than"
            part = "Shown" if row.diverged == row.seeds else "Shown in part"
            verdicts = dict.fromkeys(_HIGHER, part)
        said.append(_say(row, claim, low, verdicts))
    ablations = _best(rows, _HDET[:2])
    between = _best(rows, ("ddp-mid-1", "ddp-mid-2"))
    others = _best(rows, by.keys() - {"auto-lr-from-tenth", "ddp-tenth"})
    said += [
        _say(full, "ends lower than the better of its ablations,", ablations),
        _say(full, "ends lower than the best plain DDP at a rate between,", between),
        _say(full, "ends lower than averaging alone,", by.get("averaging-only")),
        _say(tenth, "ends lower than plain DDP at its rate,", by.get("ddp-tenth")),
        _say(tenth, "catches up with the best other row,", others, _LEVEL),
    ]
    return [sentence for sentence in said if sentence]


def _best(rows: Sequence[Row], names: Collection[str]) -> Row | None:
    """Return the named row with the lowest loss; any of them if none is finite."""
    named = [row for row in rows if row.name in names]
    return min(
        named,
        key=lambda row: math.inf if math.isnan(row.train_loss) else row.train_loss,
        default=None,
    )


def _say(a: Row | None, claim: str, b: Row | None, verdicts: Mapping[str, str] = _LOWER) -> str:
    """Say what the claim of `a` against `b` is worth; nothing if they have no seed."""
    seen = difference(a, b) if a and b else None
    if a is None or b is None or seen is None:
        return ""
    longer = ""
    if a.warm_start != b.warm_start:
        longer = f" ({'but' if a.warm_start else 'which'} has trained longer)"
    numbers = f"{number(seen.first)} against {number(seen.second)}"
    if math.isfinite(seen.mean):
        numbers += f", difference {with_error(seen.mean, seen.error, '+')}"
    seeds = "one seed, no error bar" if seen.seeds == 1 else f"{seen.seeds} seeds"
    return (
        f"{verdicts[_way(seen)]}: {a.configuration} {claim} {b.configuration}{longer}: "
        f"{numbers} ({seeds})."
    )


def _way(seen: Difference) -> str:
    """Return what was seen of the first loss, as the verdicts' keys have it."""
    first, second = math.isfinite(seen.first), math.isfinite(seen.second)
    if not first and not second:
        return "neither"
    if first != second:
        return "lower" if first else "higher"
    way = "lower" if seen.mean < 0 else "higher"
    if seen.seeds == 1:
        return f"{way}, one seed"
    return "noise" if abs(seen.mean) <= 2 * seen.error else way
