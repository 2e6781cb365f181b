"""Everybody here? Asked before the collectives of a sync, so that nobody waits in silence.

A process that never comes to a sync, because its loop lacks a call that the others' have,
would leave them waiting inside a collective, or pair that up with another one of its own.
So each process first signs in at the store through which the process group was set up, and
goes on when all have. A process that has ended is named within seconds (`liveness`); one that
is only late is waited for, and named when the group's own timeout is nearly over. Those that
come for different things, such as a sync and `converge`, learn it here too.

The store's work is the same for any number of steps: three counters for each group of
processes, and one line for each process, written over at every sync.
"""

import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from ...errors import where
from .groups import Replicas
from .liveness import appear

# Of the group's timeout: before the others' collectives run out of time and hide the cause.
_PATIENCE = 0.9
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
_LOOK = 1.0  # seconds between two looks at whether the missing have ended
_LOOKERS = 16  # of those that wait, about so many look at a time

# How many roll calls there are over the same processes; begun anew with each process group.
_world: object = None
_made: dict[tuple[int, ...], int] = {}
_EVERY_SCHEDULER: tuple[int, ...] = ()


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
        self._order = 0  # of the scheduler, among all that this process has made
        # What all have come for at the even and at the odd calls, added up.
        self._purposes = [0, 0]
        self._keys: list[tuple[tuple[int, ...], str]] = []

    def appear(self, takes_part: bool) -> None:
        """Let the others see from now on whether this process has ended. Local.

        Args:
            takes_part: whether the scheduler will ever come. One that has nothing to explore
                never does, and the others learn it here if theirs has.
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
        """Wait until every process has come for `purpose`.

        Args:
            purpose: what they come to, as in "the sync".
            step: when, as this process counts; not compared here.
            device: on which the collectives run; its group's timeout holds.

        Raises:
            RuntimeError: naming the ranks that have ended, at once; those that came for
                something else; or those that are missing, before the group's timeout is over.
        """
        store = _store()
        if store is None:
            return
        if self._world is not dist.group.WORLD:
            self._world, self._times, self._purposes = dist.group.WORLD, 0, [0, 0]
            rosters = self._replicas.rosters
            self._keys = [(r, f"hdet/{'.'.join(map(str, r))}/{_number(r)}") for r in rosters]
        self._times += 1
        patience = _PATIENCE * _timeout(self._replicas.group, device)
        deadline = time.monotonic() + patience
        moment = f"{purpose} at step {step}"
        number = zlib.crc32(f"{self._name} {purpose}".encode()) % 2**20
        self._purposes[self._times % 2] += number
        try:
            for roster, key in self._keys:
                store.set(f"{key}/{dist.get_rank()}", f"{self._times}|{self._name}|{moment}")
                # Read once all are here; nobody adds to it again before everybody has.
                sums = f"{key}/purpose{self._times % 2}"
                store.add(sums, number)
                self._wait(store, roster, key, moment, deadline, patience)
                self._compare(store, roster, key, store.add(sums, 0))
        except dist.DistError as error:
            raise RuntimeError(
                f"{where()}`{self._name}` lost touch with the other processes at {moment}: "
                f"{_keeper(store)}. Its own error has the cause; restart from the last "
                f"checkpoint."
            ) from error

    @contextmanager
    def explained(self, purpose: str, step: int) -> Iterator[None]:
        """Name who has ended where a collective in the block fails.

        Raises:
            RuntimeError: in place of the backend's own, which knows sockets and no ranks.
        """
        try:
            yield
        except RuntimeError as error:
            ended = self._ended()
            if not ended:
                raise
            said = ", ".join(f"rank {rank}" for rank in ended)
            raise RuntimeError(
                f"{where()}`{self._name}` lost {said} within {purpose} at step {step}: the "
                f"process has ended. Its own output has the cause; restart from the last "
                f"checkpoint."
            ) from error

    def _ended(self) -> list[int]:
        """Return all ranks that are known to have ended, as far as can be told."""
        store = _store()
        ranks = sorted({rank for roster, _ in self._keys for rank in roster})
        try:
            # The system needs a moment to close what a process has left.
            for _ in range(3):
                found = appear(store).ended(ranks) if store is not None else []
                if found:
                    return found
                time.sleep(_LOOK / 10)
        except dist.DistError:
            pass
        return []

    def _wait(
        self,
        store: Store,
        roster: tuple[int, ...],
        key: str,
        moment: str,
        deadline: float,
        patience: float,
    ) -> None:
        """Wait until all of a roster have signed in."""
        here, due, pause = store.add(key, 1), self._times * len(roster), _FIRST_PAUSE
        place, looks, look = roster.index(dist.get_rank()), 0, time.monotonic() + _LOOK
        # They take turns, so that many that wait for one do not wear out the store.
        turns = max(1, len(roster) // _LOOKERS)
        while here < due and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)
            here = store.add(key, 0)
            if here < due and time.monotonic() > look:
                looks += 1
                if (looks + place) % turns == 0 or store.check([f"{key}/ended"]):
                    self._refuse_ended(store, roster, key, moment)
                look = time.monotonic() + _LOOK
        if self._times == 1:
            # In a ring, so that each is seen by one other, also from another machine.
            appear(store).watch(roster[(place + 1) % len(roster)], only_afar=True)
        if here >= due:
            return
        missing = ", ".join(self._missing(store, roster, key).values())
        _linger()
        raise RuntimeError(
            f"{where()}`{self._name}` waited {patience:.0f} s at {moment}, and these did not "
            f"come: {missing}. Every rank has to call `step` once per optimizer step, and "
            f"`converge` and `converged` together: look for a condition on the rank, or an "
            f"early end of its data."
        )

    def _refuse_ended(
        self, store: Store, roster: tuple[int, ...], key: str, moment: str
    ) -> None:
        """Raise if one of those that are missing will never come: it has ended, or abstains."""
        if not store.check([f"{key}/ended"]):
            missing = self._missing(store, roster, key)
            self._refuse_abstaining(store, missing, moment)
            ended = appear(store).ended(missing)
            if not ended:
                return
            store.set(f"{key}/ended", ", ".join(missing[rank] for rank in ended))
        said = store.get(f"{key}/ended").decode()
        _linger()
        raise RuntimeError(
            f"{where()}`{self._name}` waits at {moment} for processes that have ended: {said}. "
            f"Their own output has the cause, an error, a kill or an early end of the data; "
            f"restart from the last checkpoint."
        )

    def _refuse_abstaining(self, store: Store, missing: dict[int, str], moment: str) -> None:
        """Raise if the scheduler that was made here explores nothing on another rank."""
        keys = {rank: f"hdet/abstains/{self._order}/{rank}" for rank in missing}
        idle = [str(rank) for rank, key in keys.items() if store.check([key])]
        if idle:
            _linger()
            raise RuntimeError(
                f"{where()}`{self._name}` waits at {moment} for rank {', '.join(idle)}, where "
                f"the scheduler has nothing to explore and never comes. Make it with the same "
                f"arguments on every rank."
            )

    def _missing(self, store: Store, roster: tuple[int, ...], key: str) -> dict[int, str]:
        """Return where the ranks were last seen that have not come."""
        found = {}
        for rank in roster:
            if not store.check([f"{key}/{rank}"]):
                found[rank] = f"rank {rank} (never seen)"
                continue
            times, _, moment = store.get(f"{key}/{rank}").decode().split("|")
            if int(times) < self._times:
                found[rank] = f"rank {rank} (last seen at {moment})"
        return found

    def _compare(self, store: Store, roster: tuple[int, ...], key: str, told: int) -> None:
        """Raise on every rank if they have come for different things."""
        if told == self._purposes[self._times % 2] * len(roster):
            return
        said = []
        for rank in roster:
            _, name, moment = store.get(f"{key}/{rank}").decode().split("|")
            said.append(f"rank {rank} for {moment} of `{name}`")
        _linger()
        raise RuntimeError(
            f"{where()}`{self._name}`: the ranks have come for different things: "
            f"{', '.join(said)}. Make the same schedulers with the same arguments on every "
            f"rank, a probe on all or on none, and call the same methods."
        )


def _linger() -> None:
    """Keep the store, which most often is rank 0's, until the others know the cause too."""
    if dist.get_rank() == 0:
        time.sleep(1.5 * _LOOK)


def _keeper(store: Store) -> str:
    """Say which process keeps the store that has gone."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if not isinstance(store, TCPStore):
        return "one of them has ended"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return "the launcher, which keeps their store, has ended"
    return "rank 0, which keeps their store, has ended"


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
