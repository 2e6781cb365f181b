"""Weights of a climb, to go back to: taken at any step, spread over the replicas.

While the rate is searched the replicas take equal steps, and their weights are equal. So each
snapshot is kept by one replica, the one that keeps the fewest, and a roll-back is a broadcast
from it: N replicas with room for C snapshots hold C/N copies of the model each.

The room is bounded however long the climb: when it is full every second snapshot goes, and from
then on only every second call takes one.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import require_whole
from ...state import Entries
from ..ensemble.buckets import flat
from ..ensemble.contents import local_floats
from ..ensemble.groups import Replicas
from ..ensemble.meshes import reshard

_log = logging.getLogger("hdet")


class Snapshot(NamedTuple):
    """One that was taken, known on every rank.

    Attributes:
        step: optimizer steps before it.
        log_rate: the log rate at which it was taken.
        owner: the replica that keeps it.
    """

    step: int
    log_rate: float
    owner: int


class Snapshots:
    """The snapshots of one run; every rank calls all methods alike.

    Args:
        optimizer: whose trained parameters are kept; under FSDP2 each process keeps its shards.
        model: whose floating-point buffers are kept too; None for none. Where the replicas'
            differ, as batch-norm statistics do, all go back to the owner's.
        replicas: between whom they are spread.
        capacity: how many there are at most, on all replicas together; at least 2.

    Raises:
        ValueError: if `capacity` is out of range.
    """

    def __init__(
        self, optimizer: Optimizer, model: nn.Module | None, replicas: Replicas, capacity: int
    ) -> None:
        require_whole("Snapshots", "capacity", capacity, "keep at least two", low=2)
        self._optimizer = optimizer
        self._model = model
        self._replicas = replicas
        self._capacity = capacity
        self.clear()

    @property
    def taken(self) -> tuple[Snapshot, ...]:
        """Those that there are, the oldest first; the same on every rank."""
        return tuple(self._taken)

    def clear(self) -> None:
        """Drop them all, and begin anew. Local."""
        self._taken: list[Snapshot] = []
        self._kept: dict[Snapshot, list[Tensor]] = {}
        self._trained: list[int] = []
        self._calls = 0
        self._stride = 1

    @torch.no_grad()
    def take(self, step: int, log_rate: float) -> None:
        """Keep the weights as they are now, unless it is a call to be left out. Local.

        Args:
            step: optimizer steps so far; larger at each call.
            log_rate: the log rate that the weights were trained at last.
        """
        self._drop_others()
        call, self._calls = self._calls, self._calls + 1
        if call % self._stride:
            return
        if len(self._taken) >= self._capacity:
            self._thin()
            if call % self._stride:
                return
        owners = [snapshot.owner for snapshot in self._taken]
        snapshot = Snapshot(step, log_rate, min(range(self._replicas.size), key=owners.count))
        self._taken.append(snapshot)
        if snapshot.owner == self._replicas.rank:
            self._kept[snapshot] = [t.clone() for t in self._tensors()]

    @torch.no_grad()
    def restore(self, at_or_below: float) -> Snapshot | None:
        """Go back to the newest snapshot whose rate is at or below a rate. Collective.

        The weights are written in place. The optimizer's state is left alone: see
        `restart_moments`.

        Args:
            at_or_below: a log rate.

        Returns:
            The snapshot; None where there is none, and nothing has changed. Equal on all ranks.
        """
        self._drop_others()
        found = [s for s in self._taken if s.log_rate <= at_or_below]
        for snapshot, there in zip(found[::-1], self._available(found[::-1]), strict=True):
            if there:
                self._write(snapshot)
                reshard(self._model)
                return snapshot
        return None

    def _drop_others(self) -> None:
        """Drop all where layers were frozen or thawed: they are of other parameters."""
        trained = [id(p) for p in self._parameters()]
        if trained != self._trained:
            self.clear()
            self._trained = trained

    def _available(self, snapshots: Sequence[Snapshot]) -> list[bool]:
        """Return which of them every process of their owner has: not those lost at a load."""
        own = [float(s in self._kept) for s in snapshots]
        if not self._replicas.connected or not own:
            return [s in self._kept for s in snapshots]
        # A process may hold no shard, and no tensor of its own to ask.
        device = next((p.device for p in self._parameters()), torch.device("cpu"))
        row = torch.tensor([*own, 1.0], dtype=torch.float64, device=device)
        rows = self._replicas.gather(self._replicas.sum_inner_(row))
        return [rows[s.owner][k] == rows[s.owner][-1] for k, s in enumerate(snapshots)]

    def _write(self, snapshot: Snapshot) -> None:
        tensors, replicas = self._tensors(), self._replicas
        if snapshot in self._kept:
            for tensor, kept in zip(tensors, self._kept[snapshot], strict=True):
                tensor.copy_(kept)
        if not replicas.connected or replicas.size == 1:
            return
        works = [
            dist.broadcast(
                flat(t), group=replicas.group, group_src=snapshot.owner, async_op=True
            )
            for t in tensors
        ]
        for work in works:
            if work is not None:
                work.wait()

    def _thin(self) -> None:
        """Drop every second one; the first call's stays, so that the others keep their beat."""
        dropped = self._taken[1::2]
        self._taken = self._taken[::2]
        self._stride *= 2
        for snapshot in dropped:
            self._kept.pop(snapshot, None)

    def _parameters(self) -> list[Tensor]:
        held = (p for group in self._optimizer.param_groups for p in group["params"])
        return [p for p in held if p.requires_grad]

    def _tensors(self) -> list[Tensor]:
        """Return what is kept of this process."""
        buffers = [] if self._model is None else list(self._model.buffers())
        return local_floats(t.detach() for t in [*self._parameters(), *buffers])

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and tensors, with the snapshots that this process keeps. Local.

        Each rank has to save its own for all of them to be there again.
        """
        return {
            "shape": list(self._replicas.shape),
            # Without any, the states of all ranks are the same.
            "coordinate": list(self._replicas.coordinate) if self._taken else [],
            "calls": self._calls,
            "stride": self._stride,
            "taken": [
                {**s._asdict(), "tensors": [t.clone() for t in self._kept.get(s, [])]}
                for s in self._taken
            ],
        }

    def parsed(self, entries: Entries) -> "Snapshots":
        """Return the snapshots that a state holds, copied; nothing here changes.

        Those of another number of processes are dropped with a logged warning. In a state of
        another rank of as many, what that one keeps is left out: `restore` goes without.

        Raises:
            ValueError: if the state is damaged, or of another model.
        """
        fresh = Snapshots(self._optimizer, self._model, self._replicas, self._capacity)
        shape, mine = entries.integers("shape"), list(self._replicas.shape)
        rows = list(entries.rows("taken"))
        if shape != mine and not rows:
            return fresh
        if shape != mine:
            _log.warning(
                "the snapshots of the learning rate's search were saved by %s processes and "
                "are loaded by %s: they are dropped",
                "x".join(map(str, shape)),
                "x".join(map(str, mine)),
            )
            return fresh
        own = entries.integers("coordinate") == list(self._replicas.coordinate)
        if rows and not own:
            _log.warning(
                "the state is another rank's: the snapshots that this one kept are lost, and a "
                "roll-back may go further back"
            )
        fresh._calls = entries.integer("calls")
        fresh._stride = entries.integer("stride", low=1)
        fresh._trained = [id(p) for p in self._parameters()]
        tensors = self._tensors()
        for row in rows:
            owner = row.integer("owner", high=self._replicas.size - 1)
            snapshot = Snapshot(row.integer("step"), row.number("log_rate"), owner)
            fresh._taken.append(snapshot)
            if own and owner == self._replicas.rank:
                kept = row.listed("tensors", len(tensors))
                fresh._kept[snapshot] = [
                    kept.tensor(str(k), t.shape, t.dtype, finite=False).to(t.device, copy=True)
                    for k, t in enumerate(tensors)
                ]
        return fresh

    def assign(self, parsed: "Snapshots") -> None:
        """Go on from what `parsed` returned."""
        vars(self).update(vars(parsed))
