"""The replicas of a run, seen from one process: who they are, and how they talk.

Under plain data parallelism every process is a replica. Where a model is split over several
processes (sharded, tensor-parallel, pipelined), a replica is all of them together: they share
one multiplier, and their losses are averaged first. `meshes.find_replicas` tells which.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ...errors import where


def is_member(group: object) -> bool:
    """Return whether this process belongs to a process group or mesh. Local."""
    if isinstance(group, DeviceMesh):
        return group.get_coordinate() is not None
    if group is None or not (dist.is_available() and dist.is_initialized()):
        return True
    # What `new_group` returns to those whom it leaves out is no group at all.
    return isinstance(group, dist.ProcessGroup) and dist.get_rank(group) >= 0


def group_ranks(group: dist.ProcessGroup | None) -> tuple[int, ...]:
    """Return the global ranks of a group's members; None is the default group. Local."""
    # torch 2.6 does not take None.
    return tuple(dist.get_process_group_ranks(group or dist.group.WORLD))


def _is_known(group: object) -> bool:
    """Return whether torch.distributed has made a process group. Local."""
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        return True
    try:
        return dist.is_initialized() and dist.get_rank(group) is not None
    except ValueError:
        return False


def require_membership(group: object, call: str) -> None:
    """Raise a `ValueError` unless this process belongs to `group`. Local."""
    if not _is_known(group):
        raise ValueError(
            f"{where()}`{call}(process_group={type(group).__name__})` is not known to "
            f"torch.distributed: call init_process_group first, and make the group by "
            f"new_group. The members of a group of torchft's come and go, and replicas "
            f"cannot: restart from a checkpoint with another number of them."
        )
    if not is_member(group):
        raise ValueError(
            f"{where()}`{call}(process_group=...)` was given a group without this rank: call "
            f"it on the group's members only, or give each rank its own group."
        )


@dataclass(frozen=True)
class Replicas:
    """The replicas of a run. Ranks are looked up at call time.

    Attributes:
        group: the process group whose members are the replicas; None for the default.
        inner: the groups over which one replica is split; empty without sharding.
        fallback_rank: this replica's index where no process group is initialised.
        fallback_size: the number of replicas where no process group is initialised.
        everyone: all processes of all replicas, by global rank; empty for `group` alone.
    """

    group: dist.ProcessGroup | None = None
    inner: tuple[dist.ProcessGroup, ...] = ()
    fallback_rank: int = 0
    fallback_size: int = 1
    everyone: tuple[int, ...] = ()

    @property
    def connected(self) -> bool:
        """Whether collectives can be issued."""
        return dist.is_available() and dist.is_initialized()

    @property
    def world(self) -> object:
        """What stands for the run's processes: another object after another initialisation."""
        return dist.group.WORLD if dist.is_available() else None

    @property
    def rank(self) -> int:
        """This replica's index r."""
        return dist.get_rank(self.group) if self.connected else self.fallback_rank

    @property
    def size(self) -> int:
        """The number of replicas N."""
        return dist.get_world_size(self.group) if self.connected else self.fallback_size

    def backend(self, device: torch.device) -> str:
        """Return the name of what moves data between a kind of device; "" for nothing."""
        if not self.connected:
            return ""
        pairs = dist.get_backend_config(self.group).split(",")
        return dict(pair.split(":") for pair in pairs).get(device.type, "")

    @property
    def rosters(self) -> list[tuple[int, ...]]:
        """The sets of global ranks that have to come to a sync; this one is in each."""
        if self.everyone:
            return [self.everyone]
        return [group_ranks(group) for group in (self.group, *self.inner)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of replicas, and of processes along each inner group."""
        return (self.size, *(dist.get_world_size(group) for group in self.inner))

    @property
    def coordinate(self) -> tuple[int, ...]:
        """This process's index along each axis of `shape`."""
        return (self.rank, *(dist.get_rank(group) for group in self.inner))

    @property
    def shard(self) -> list[int]:
        """Which part of a replica this process is, and of how many, along each axis."""
        return [*self.shape[1:], *self.coordinate[1:]]

    @property
    def is_first(self) -> bool:
        """Whether this is the first process of the first replica, which logs for all."""
        return not any(self.coordinate)

    def sum_inner_(self, row: Tensor) -> Tensor:
        """Add `row` over the processes of this replica, in place. Collective."""
        for group in self.inner:
            dist.all_reduce(row, group=group)
        return row

    def gather(self, row: Tensor) -> list[list[float]]:
        """Return the `row` of every replica, in rank order. Collective.

        Each replica fills its own slot of zeros and the slots are added: exact, and the
        one collective that every backend has on every device. The `.tolist()` is where
        the host waits for the device, once per sync.
        """
        slots = row.new_zeros(self.size, row.numel())
        slots[self.rank] = row
        dist.all_reduce(slots, group=self.group)
        return slots.tolist()

    def gather_processes(self, row: Sequence[float], device: torch.device) -> list:
        """Return the `row` of every process, nested lists of `shape`. Collective."""
        own = torch.as_tensor(row, dtype=torch.float64, device=device)
        slots = own.new_zeros(*self.shape, own.numel())
        slots[self.coordinate] = own
        for group in (self.group, *self.inner):
            dist.all_reduce(slots, group=group)
        return slots.tolist()
