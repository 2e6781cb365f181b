"""Which rows of a long record are drawn: of each part those with the extremes.

A picture a thousand pixels wide cannot show 100,000 rows. The rows are divided into as many
parts as there is room for, and of each part those stay that hold its first row, and the least
and the largest of every curve. So a spike of a single row stays visible, and as high as it was.
"""

from collections.abc import Iterable, Sequence

from .lines import Quantity
from .record import SEARCHING, Record

_MOST_SEARCHED = 400  # rows of the search, which is looked at closely


def rows_to_draw(record: Record, quantities: Sequence[Quantity], most: int) -> list[int]:
    """Return about `most` rows at the most, in order; those with events are among them.

    Args:
        record: the run.
        quantities: whose extremes have to stay.
        most: rows.
    """
    total = len(record)
    if total <= most:
        return list(range(total))
    searched = next(
        (row for row, phase in enumerate(record.phases) if phase not in SEARCHING), total
    )
    kept = {0, total - 1}
    kept.update(_extremes(quantities, 0, searched, min(_MOST_SEARCHED, most // 4)))
    kept.update(_extremes(quantities, searched, total, most - most // 4))
    for _, first, last in record.spans():
        kept.update((first, last))
    kept.update(event.row for event in record.events()[-most // 4 :])
    return sorted(kept)


def _extremes(quantities: Sequence[Quantity], start: int, end: int, most: int) -> Iterable[int]:
    """Yield rows between two, those with the extremes of equal parts."""
    if end - start <= most:
        yield from range(start, end)
        return
    # Of each quantity the least and the largest, of the run and over its replicas.
    parts = max(1, most // (4 * len(quantities) + 1))
    for part in range(parts):
        low = start + (end - start) * part // parts
        high = start + (end - start) * (part + 1) // parts
        yield low
        for quantity in quantities:
            yield from _least_and_largest([quantity.base], low, high)
            yield from _least_and_largest(quantity.replicas, low, high)


def _least_and_largest(
    columns: Sequence[Sequence[float]], low: int, high: int
) -> Iterable[int]:
    """Yield the rows of the least and the largest number of some columns."""
    found = []
    for column in columns:
        part = column[low:high]
        known = [x for x in part if x == x]
        if known:
            least, largest = min(known), max(known)
            found.append((least, largest, part))
    if found:
        least, _, part = min(found, key=lambda one: one[0])
        yield low + list(part).index(least)
        _, largest, part = max(found, key=lambda one: one[1])
        yield low + list(part).index(largest)
