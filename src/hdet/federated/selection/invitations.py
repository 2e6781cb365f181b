"""The invitations that wait for a reply: a reply counts only if it answers one of them.

So a report that comes twice, or from a client that was not asked, is known for what it is.
"""

import torch

from ...state import Entries

# A model this many rounds old says nothing of today's; without an end, the invitations that
# are never answered would pile up.
_OPEN_ROUNDS = 100


class Invitations:
    """Rows invited and not yet heard of, by round."""

    def __init__(self) -> None:
        self._rows: dict[int, set[int]] = {}

    def open(self, number: int, rows: torch.Tensor) -> None:
        """Note invitations to round `number`, and forget those of long ago."""
        self._rows.setdefault(number, set()).update(rows.tolist())
        oldest = max(self._rows) - _OPEN_ROUNDS
        self._rows = {r: waiting for r, waiting in self._rows.items() if waiting and r > oldest}

    def waiting(self, number: int) -> frozenset[int]:
        """Return the rows that have not answered their invitation to round `number`."""
        return frozenset(self._rows.get(number, ()))

    def close(self, number: int, rows: list[int]) -> None:
        """Strike off the invitations to round `number` that these rows answered."""
        self._rows.get(number, set()).difference_update(rows)

    def state(self) -> torch.Tensor:
        """Return [n, 2] pairs of round and row."""
        pairs = [(number, row) for number, rows in self._rows.items() for row in sorted(rows)]
        return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)

    @classmethod
    def read(cls, entries: Entries, key: str, last_round: int, rows: int) -> "Invitations":
        """Return the invitations of a `state`.

        Args:
            entries: what it stands in.
            key: its name.
            last_round: the selector's.
            rows: how many clients it knows.

        Raises:
            ValueError: if it is damaged.
        """
        pairs = read_pairs(entries, key, (1, last_round), (0, rows - 1))
        made = cls()
        for number, row in pairs.tolist():
            made._rows.setdefault(number, set()).add(row)
        return made


def read_pairs(
    entries: Entries, key: str, first: tuple[int, int], second: tuple[int, int]
) -> torch.Tensor:
    """Return an entry that is a tensor of pairs of whole numbers.

    Args:
        entries: what it stands in.
        key: its name.
        first: the lowest and the highest of the first column.
        second: those of the second.
    """
    pairs = entries.tensor(key, (None, 2), torch.int64).cpu()
    for column, (low, high) in enumerate((first, second)):
        values = pairs[:, column]
        if bool(((values < low) | (values > high)).any()):
            entries.refuse(key, pairs, "names a row or a round that is not there")
    return pairs
