"""The processes of a run, and how they tell each other what they have found.

They do so through the store at which they have met. Collectives would not do: where one process
has failed, the others would wait for it inside theirs.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

# For processes that are slow to build their model; torch's own patience is half an hour.
PATIENCE = timedelta(minutes=5)


class Company:
    """The processes that look together, in a process group that is made for them. Collective.

    Args:
        store: at which they meet.
        rank: of this process.
        size: the number of processes.
        patience: how long the others are waited for.
    """

    def __init__(
        self, store: Store, rank: int, size: int, patience: timedelta = PATIENCE
    ) -> None:
        self.rank, self.size, self._patience = rank, size, patience
        # The others wait for the first process, which waits for all of them.
        store.set_timeout(2 * patience)
        self._store = PrefixStore("hdet doctor", store)
        dist.init_process_group(
            store=PrefixStore("hdet doctor's group", store),
            rank=rank,
            world_size=size,
            timeout=patience,
        )

    def exchange(self, stage: str, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what each process has found at a stage, by rank. Collective.

        A process that does not come is there with an "error", as the first to have failed.

        Args:
            stage: a name of its own for each call.
            mine: what this process has found: numbers and texts.
        """
        self._store.set(f"{stage}/{self.rank}", json.dumps(mine))
        if self.rank == 0:
            self._wait([f"{stage}/{rank}" for rank in range(self.size)])
            found = [self._read(f"{stage}/{rank}", stage) for rank in range(self.size)]
            self._store.set(f"{stage}/all", json.dumps(found))
        return json.loads(self._store.get(f"{stage}/all"))

    def fail(self, words: str) -> dict[str, Any]:
        """Return an error for `exchange`, and end the collectives that wait for this process.

        Where something else keeps hold of the group, as FSDP's module does, they end only when
        their patience does. The order tells whose failure may be the cause of the others'.
        """
        order = self._store.add("failures", 1)
        drop_group()
        return {"error": words, "order": order}

    def leave(self) -> None:
        """End the process group, once the first process has come to this, too. Collective.

        It reports before. A launcher ends all processes when one ends with an error, and the
        first one may keep the store: so it comes first, and goes last.
        """
        if self.rank == 0:
            self._store.set("reported", "")
            self._wait([f"left/{rank}" for rank in range(1, self.size)])
        else:
            self._store.get("reported")
            self._store.set(f"left/{self.rank}", "")
        drop_group()

    def _wait(self, keys: Sequence[str]) -> None:
        with suppress(dist.DistError, RuntimeError):
            self._store.wait([*keys], self._patience)

    def _read(self, key: str, stage: str) -> dict[str, Any]:
        if self._store.check([key]):
            return json.loads(self._store.get(key))
        return {"error": f"does not come to {stage}: it hangs, or is dead", "order": 0}


def meet() -> Company:
    """Return the processes that a launcher has started, or this one alone. Collective.

    Raises:
        Exception: whatever torch raises where they do not meet.
    """
    if not launched():
        return Company(HashStore(), 0, 1)
    store, rank, size = next(iter(rendezvous("env://", timeout=PATIENCE)))
    return Company(store, rank, size)


def launched() -> bool:
    """Return whether a launcher has told this process who it is."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def drop_group() -> None:
    """Leave the process group, which ends the collectives in which others wait for this one."""
    if dist.is_initialized():
        dist.destroy_process_group()
