"""A vector for each client that gave one, in a matrix that grows with them.

The memory is (clients ever heard) x (length of a vector) x 4 bytes on the CPU.
"""

import copy
from typing import Any, Self

import torch

from ...errors import require
from ...state import Entries


class VectorMemory:
    """The last vector of each client that gave one.

    Args:
        name: the public name of the selector, for errors.
        argument: what the vectors are, for errors.
    """

    def __init__(self, name: str, argument: str) -> None:
        self._name, self._argument = name, argument
        self._slot = torch.empty(0, dtype=torch.int64)  # by row; -1 if it has none
        self._vectors = torch.empty(0, 0)
        self._used = 0

    @property
    def vectors(self) -> torch.Tensor:
        """[n, length] all vectors, in the order of their first coming."""
        return self._vectors[: self._used]

    def checked(self, vectors: list[torch.Tensor]) -> torch.Tensor | None:
        """Return the vectors as one matrix, or None if there are none.

        Args:
            vectors: flat, of one length.

        Raises:
            ValueError: if one is not as long as those before.
        """
        if not vectors:
            return None
        length = self._vectors.shape[1] or len(vectors[0])
        for vector in vectors:
            require(
                len(vector) == length,
                f"{self._name}.feedback",
                self._argument,
                len(vector),
                f"must be as long as before, {length}",
                "let every client send the same numbers in the same order",
            )
        return torch.stack(vectors)

    def put(self, rows: list[int], vectors: torch.Tensor) -> None:
        """Keep the vectors, which `checked` returned, of these different rows."""
        missing = max(rows) + 1 - len(self._slot)
        if missing > 0:
            self._slot = torch.cat([self._slot, torch.full((missing,), -1)])
        index = torch.tensor(rows)
        new = index[self._slot[index] < 0]
        needed = self._used + len(new)
        if needed > len(self._vectors):
            larger = torch.empty(max(needed, 2 * self._used), vectors.shape[1])
            if self._used:
                larger[: self._used] = self.vectors
            self._vectors = larger
        self._slot[new] = torch.arange(self._used, needed)
        self._used = needed
        self._vectors[self._slot[index]] = vectors

    def slots(self, rows: torch.Tensor) -> torch.Tensor:
        """Return where in `vectors` each row's stands; -1 if it has none."""
        within = rows < len(self._slot)
        result = torch.full_like(rows, -1)
        result[within] = self._slot[rows[within]]
        return result

    def rows_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return each row's vector, [K, length]; zeros where it has none."""
        slots = self.slots(rows)
        result = torch.zeros(len(rows), max(1, self._vectors.shape[1]))
        known = slots >= 0
        if self._used:
            result[known] = self.vectors[slots[known]]
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the matrix and where each row's vector stands."""
        return {"slot": self._slot.clone(), "vectors": self.vectors.clone()}

    def read(self, entries: Entries, rows: int) -> Self:
        """Return the memory of a state of `state_dict`; this one stays as it is.

        Args:
            entries: the state.
            rows: how many clients the selector knows.

        Raises:
            ValueError: if it is damaged, or its vectors are not as long as those here.
        """
        length = self._vectors.shape[1] if self._used else None
        vectors = entries.tensor("vectors", (None, None), torch.float32)
        slot = entries.tensor("slot", (None,), torch.int64)
        if len(slot) > rows:
            entries.refuse("slot", slot, f"must have at most {rows} entries, one for a client")
        used = slot[slot >= 0].sort().values
        if not torch.equal(used.cpu(), torch.arange(len(vectors))) or bool((slot < -1).any()):
            entries.refuse("slot", slot, "has not a vector for each slot, and a slot for each")
        if len(vectors) and vectors.shape[1] == 0:
            entries.refuse("vectors", vectors, "must have entries")
        if len(vectors) and length is not None and vectors.shape[1] != length:
            entries.refuse("vectors", vectors, f"must be as long as those here, {length}")
        made = copy.copy(self)
        made._slot = slot.to("cpu", copy=True)
        made._vectors = vectors.to("cpu", copy=True) if len(vectors) else torch.empty(0, 0)
        made._used = len(vectors)
        return made
