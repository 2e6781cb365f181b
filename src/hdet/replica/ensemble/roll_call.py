"""A roll call before the collectives of a sync, so that no process waits in silence.

A process that never comes to a sync, because its loop lacks a call that the others' have,
would leave them waiting inside a collective, or pair that up with a different one of its own.
So each process first signs in at the store through which the process group was set up, and
goes on when all have. A process that has ended is named within seconds (`liveness`); one that
is only late is waited for, and named when the group's own timeout is nearly over. Processes
that make different calls, such as a sync and `converge`, learn it here too.

The load on the store does not grow with the steps: three counters for each group of
processes, and one line for each process, overwritten at every sync.
"""

import os
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.distributed_c10d import _get_default_store

from ...errors import where
from .groups import Replicas
from .liveness import appear

# Of the group's timeout: before the others' collectives run out of time and hide the cause.
_PATIENCE = 0.9
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
_LOOK = 1.0  # seconds between two looks at whether the missing have ended
_LOOKERS = 16  # about so many of the waiting processes look at a time

# How many roll calls there are over the same processes; begun anew with each process group.
_world: object = None
_made: dict[tuple[int, ...], int] = {}
_EVERY_SCHEDULER: tuple[int, ...] = ()


def _number(ranks: tuple[int, ...]) -> int:
    """Return the next number over these ranks: equal on all, like the order of calls."""
    global _world
    if _world is not dist.group.WORLD:
        _world = dist.group.WORLD
        _made.clear()
    _made[ranks] = _made.get(ranks, -1) + 1
    return _made[ranks]


class RollCall:
    """The roll calls of one ensemble.

    Args:
        replicas: whose processes have to come.
        name: the public name for errors.
    """

    def __init__(self, replicas: Replicas, name: str) -> None:
        self._replicas = replicas
        self._name = name
        self._world: object = None
        self._order = 0  # of the scheduler, among all that this process has made
        self._rosters: list[_Roster] = []

    def appear(self, takes_part: bool) -> None:
        """Let the others see from now on whether this process has ended. Local.

        A scheduler that has nothing to explore never comes: `takes_part` is False, and the
        others learn it here if theirs has.
        """
        store = _store()
        if store is None:
            return
        self._order = _number(_EVERY_SCHEDULER)
        if takes_part:
            appear(store)
        else:
            store.set(f"hdet/abstains/{self._order}/{dist.get_rank()}", self._name)

    def assemble(self, purpose: str, step: int, device: torch.device) -> None:
        """Wait until every process has come for `purpose`, such as "the sync".

        Steps are not compared here. The timeout is that of the group's collectives on `device`.

        Raises:
            RuntimeError: naming the ranks that have ended, at once; those that came for
                something else; or those that are missing, before the group's timeout is over.
        """
        store = _store()
        if store is None:
            return
        if self._world is not dist.group.WORLD:
            self._world = dist.group.WORLD
            self._rosters = [
                _Roster(store, self._name, ranks, self._order)
                for ranks in self._replicas.rosters
            ]
        patience = _PATIENCE * _timeout(self._replicas.group, device)
        deadline = time.monotonic() + patience
        number = zlib.crc32(f"{self._name} {purpose}".encode()) % 2**20
        try:
            for roster in self._rosters:
                roster.sign_in(f"{purpose} at step {step}", number)
                roster.wait(deadline, patience)
                roster.compare()
        except dist.DistError as error:
            raise RuntimeError(
                f"{where()}`{self._name}` lost the connection to the other processes at "
                f"{purpose} at step {step}: {_keeper(store)}. Its own error has the cause; "
                f"restart from the last checkpoint."
            ) from error

    @contextmanager
    def explained(self, purpose: str, step: int) -> Iterator[None]:
        """Name the ranks that have ended where a collective in the block fails.

        Raises:
            RuntimeError: in place of the backend's own, which knows sockets and no ranks.
        """
        try:
            yield
        except RuntimeError as error:
            ended = self._ended()
            if not ended:
                raise
            raise RuntimeError(
                f"{where()}`{self._name}` lost {_listed(ended)} within {purpose} at step "
                f"{step}: the process has ended. Its own output has the cause; restart from "
                f"the last checkpoint."
            ) from error

    def _ended(self) -> list[int]:
        """Return all ranks that are known to have ended, as far as can be told."""
        store = _store()
        ranks = sorted({rank for roster in self._rosters for rank in roster.ranks})
        with suppress(dist.DistError):
            # The system needs a moment to close what a process has left.
            for _ in range(3):
                if store is not None and (found := appear(store).ended(ranks)):
                    return found
                time.sleep(_LOOK / 10)
        return []


class _Roster:
    """The processes that have to come, and what the store says of them."""

    def __init__(self, store: Store, name: str, ranks: tuple[int, ...], order: int) -> None:
        self.ranks = ranks
        self._store, self._name, self._order = store, name, order
        self._key = f"hdet/{'.'.join(map(str, ranks))}/{_number(ranks)}"
        self._ended = f"{self._key}/ended"
        self._index = ranks.index(dist.get_rank())
        self._times, self._moment = 0, ""
        # What all have come for at the even and at the odd calls, added up.
        self._purposes = [0, 0]

    def sign_in(self, moment: str, number: int) -> None:
        """Tell the others that this process has come, and for what."""
        self._times += 1
        self._moment = moment
        self._purposes[self._times % 2] += number
        line = f"{self._times}|{self._name}|{moment}"
        self._store.set(f"{self._key}/{dist.get_rank()}", line)
        # Read once all are here; nobody adds to it again before everybody has.
        self._store.add(f"{self._key}/purpose{self._times % 2}", number)

    def wait(self, deadline: float, patience: float) -> None:
        """Wait until all have come; name those that have not by the deadline."""
        here, due = self._store.add(self._key, 1), self._times * len(self.ranks)
        pause, looks, look = _FIRST_PAUSE, 0, time.monotonic() + _LOOK
        # They take turns, so that many that wait for one do not wear out the store.
        turns = max(1, len(self.ranks) // _LOOKERS)
        while here < due and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)
            here = self._store.add(self._key, 0)
            if here < due and time.monotonic() > look:
                looks += 1
                if (looks + self._index) % turns == 0 or self._store.check([self._ended]):
                    self._refuse_ended()
                look = time.monotonic() + _LOOK
        if self._times == 1:
            # In a ring, so that each is seen by one other, also from another machine.
            neighbour = self.ranks[(self._index + 1) % len(self.ranks)]
            appear(self._store).watch(neighbour, only_afar=True)
        if here < due:
            missing = ", ".join(self._missing().values())
            self._refuse(
                f" waited {patience:.0f} s at {self._moment}, and these did not come: "
                f"{missing}. Every rank has to call `step` once per optimizer step, and "
                f"`converge` and `converged` together: look for a condition on the rank, or an "
                f"early end of its data."
            )

    def compare(self) -> None:
        """Raise on every rank if they are making different calls."""
        told = self._store.add(f"{self._key}/purpose{self._times % 2}", 0)
        if told == self._purposes[self._times % 2] * len(self.ranks):
            return
        said = []
        for rank in self.ranks:
            _, name, moment = self._last_line(rank)
            said.append(f"rank {rank} for {moment} of `{name}`")
        self._refuse(
            f": the ranks are making different calls: {', '.join(said)}. Make the same "
            f"schedulers with the same arguments on every rank, a probe on all or on none, "
            f"and call the same methods."
        )

    def _refuse_ended(self) -> None:
        """Raise if one of those that are missing will never come: it has ended, or abstains."""
        if not self._store.check([self._ended]):
            missing = self._missing()
            abstain = f"hdet/abstains/{self._order}"
            if idle := [rank for rank in missing if self._store.check([f"{abstain}/{rank}"])]:
                self._refuse(
                    f" waits at {self._moment} for {_listed(idle)}, where the scheduler has "
                    f"nothing to explore, so it never joins. Make it with the same arguments "
                    f"on every rank."
                )
            ended = appear(self._store).ended(missing)
            if not ended:
                return
            self._store.set(self._ended, ", ".join(missing[rank] for rank in ended))
        said = self._store.get(self._ended).decode()
        self._refuse(
            f" waits at {self._moment} for processes that have ended: {said}. Their own output "
            f"has the cause: an error, a kill or an early end of the data. Restart from the "
            f"last checkpoint."
        )

    def _missing(self) -> dict[int, str]:
        """Return the ranks that have not come, each with where it was last seen."""
        found = {}
        for rank in self.ranks:
            if not self._store.check([f"{self._key}/{rank}"]):
                found[rank] = f"rank {rank} (never seen)"
                continue
            times, _, moment = self._last_line(rank)
            if int(times) < self._times:
                found[rank] = f"rank {rank} (last seen at {moment})"
        return found

    def _last_line(self, rank: int) -> list[str]:
        return self._store.get(f"{self._key}/{rank}").decode().split("|")

    def _refuse(self, text: str) -> NoReturn:
        if dist.get_rank() == 0:
            # It most often keeps the store, in which the others have yet to read the cause.
            time.sleep(1.5 * _LOOK)
        raise RuntimeError(f"{where()}`{self._name}`{text}")


def _listed(ranks: Iterable[int]) -> str:
    return ", ".join(f"rank {rank}" for rank in ranks)


def _keeper(store: Store) -> str:
    """Return which process keeps the store that has gone, in words."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if not isinstance(store, TCPStore):
        return "one of them has ended"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return "the launcher, which keeps their store, has ended"
    return "rank 0, which keeps their store, has ended"


def _store() -> Store | None:
    """Return the store of the default process group; None if it has none."""
    world = dist.group.WORLD
    # torch 2.6 has no such method.
    find = getattr(world, "get_group_store", _get_default_store)
    try:
        return None if world is None else find()
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
