"""Everybody here? Asked before the collectives of a sync, so that nobody waits in silence.

A process that never comes to a sync, because its loop lacks a call that the others' have,
would leave them waiting inside a collective, or pair that up with another one of its own.
So each process first signs in at the store through which the process group was set up, and
goes on when all have. Who is missing when the group's own timeout is nearly over is named.

The store's work is the same for any number of steps: one counter for each group of
processes, and one line for each process, written over at every sync.
"""

import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from ..errors import where
from .groups import Replicas

# Of the group's timeout: before the others' collectives run out of time and hide the cause.
_PATIENCE = 0.9
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02

# How many roll calls there are over the same processes; begun anew with each process group.
_world: object = None
_made: dict[tuple[int, ...], int] = {}


def _number(roster: tuple[int, ...]) -> int:
    """Return the next number over a roster: equal on all ranks, like the order of calls."""
    global _world
    if _world is not dist.group.WORLD:
        _world = dist.group.WORLD
        _made.clear()
    _made[roster] = _made.get(roster, -1) + 1
    return _made[roster]


class RollCall:
    """The roll calls of one ensemble.

    Args:
        replicas: whose processes have to come.
        name: the public name to put into errors.
    """

    def __init__(self, replicas: Replicas, name: str) -> None:
        self._replicas = replicas
        self._name = name
        self._world: object = None
        self._times = 0
        self._keys: list[tuple[tuple[int, ...], str]] = []

    def assemble(self, moment: str, device: torch.device) -> None:
        """Wait until every process has come to `moment`.

        Args:
            moment: what they come to, as in "the sync at step 100".
            device: on which the collectives run; its group's timeout holds.

        Raises:
            RuntimeError: naming the missing ranks, before the group's timeout is over.
        """
        store = _store()
        if store is None:
            return
        if self._world is not dist.group.WORLD:
            self._world, self._times = dist.group.WORLD, 0
            rosters = self._replicas.rosters
            self._keys = [(r, f"hdet/{'.'.join(map(str, r))}/{_number(r)}") for r in rosters]
        self._times += 1
        patience = _PATIENCE * _timeout(self._replicas.group, device)
        deadline = time.monotonic() + patience
        me = dist.get_rank()
        for roster, key in self._keys:
            try:
                store.set(f"{key}/{me}", f"{self._times}|{moment}")
                here, due, pause = store.add(key, 1), self._times * len(roster), _FIRST_PAUSE
                while here < due and time.monotonic() < deadline:
                    time.sleep(pause)
                    pause = min(1.5 * pause, _LONGEST_PAUSE)
                    here = store.add(key, 0)
                if here >= due:
                    continue
                missing = [self._absent(store, f"{key}/{r}", r) for r in roster]
            except dist.DistError as error:
                raise RuntimeError(
                    f"{where()}`{self._name}` lost touch with the other processes at "
                    f"{moment}: one of them has ended. Its own error has the cause; restart "
                    f"from the last checkpoint."
                ) from error
            raise RuntimeError(
                f"{where()}`{self._name}` waited {patience:.0f} s at {moment}, and these did "
                f"not come: {', '.join(filter(None, missing))}. Every rank has to call "
                f"`step` once per optimizer step, and `converge` and `converged` together: "
                f"look for a condition on the rank, or an early end of its data."
            )

    def _absent(self, store: Store, key: str, rank: int) -> str:
        """Return where a rank was last seen; an empty string if it has come."""
        if not store.check([key]):
            return f"rank {rank} (never seen)"
        times, moment = store.get(key).decode().split("|")
        return "" if int(times) >= self._times else f"rank {rank} (last seen at {moment})"


def _store() -> Store | None:
    """Return the store of the default process group; None where it has none."""
    try:
        return dist.group.WORLD.get_group_store()  # pyright: ignore[reportOptionalMemberAccess]
    except (AttributeError, RuntimeError):
        return None


def _timeout(group: dist.ProcessGroup | None, device: torch.device) -> float:
    """Return the seconds after which a collective of the group gives up."""
    try:
        backend = (group or dist.group.WORLD)._get_backend(device)  # pyright: ignore[reportOptionalMemberAccess]
        limit: timedelta = backend.options._timeout
    except (AttributeError, RuntimeError):
        limit = dist.default_pg_timeout
    return limit.total_seconds()
