"""Which processes are the replicas, and which of them this one is.

Under plain data parallelism every process is a replica. Under a sharded model a replica
is a whole group of processes: the replicas are the one mesh axis on which every sharded
parameter is replicated (FSDP2 on a `(replicate, shard)` mesh), all processes of one
replica share one multiplier, and their losses are averaged first. A model that is sharded
over all processes has no replicas: per-rank values would silently become per-shard values.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from ..errors import where


@dataclass(frozen=True)
class Replicas:
    """The replicas of a run, seen from one process. Looked up at call time.

    Attributes:
        group: the process group whose members are the replicas; None for the default.
        inner: the groups over which one replica is split; empty without sharding.
        rank: this replica's index where no process group is initialised.
        size: the number of replicas where no process group is initialised.
    """

    group: dist.ProcessGroup | None = None
    inner: tuple[dist.ProcessGroup, ...] = ()
    fallback_rank: int = 0
    fallback_size: int = 1

    @property
    def connected(self) -> bool:
        """Whether collectives can be issued."""
        return dist.is_available() and dist.is_initialized()

    @property
    def rank(self) -> int:
        """This replica's index r."""
        return dist.get_rank(self.group) if self.connected else self.fallback_rank

    @property
    def size(self) -> int:
        """The number of replicas N."""
        return dist.get_world_size(self.group) if self.connected else self.fallback_size

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


def find_replicas(
    tensors: Iterable[Tensor],
    call: str,
    process_group: dist.ProcessGroup | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Replicas:
    """Find the replica axis from the tensors themselves. Local, no communication.

    Args:
        tensors: the model's parameters.
        call: the public name to put into an error.
        process_group: the replicas, where the caller knows better.
        rank: this replica's index, for use without a process group only.
        world_size: the number of replicas, likewise.

    Returns:
        The replicas.

    Raises:
        ValueError: if a tensor is sharded and no mesh axis replicates all of them, or
            the group given is one over which a tensor is sharded.
    """
    sharded = [t for t in tensors if isinstance(t, DTensor)]
    if not sharded:
        return Replicas(process_group, (), rank, world_size)
    mesh = sharded[0].device_mesh
    if any(t.device_mesh != mesh for t in sharded):
        raise ValueError(
            f"{where()}`{call}` needs all sharded parameters on one device mesh, and got "
            f"several: build the model on one (replicate, shard) mesh."
        )
    axes = range(mesh.ndim)
    replicated = [
        a for a in axes if all(isinstance(t.placements[a], Replicate) for t in sharded)
    ]
    names = mesh.mesh_dim_names or tuple(f"axis {a}" for a in axes)
    if process_group is not None:
        split = [mesh.get_group(a) for a in axes if a not in replicated]
        _refuse_shard_group(call, process_group, split, names)
        return Replicas(process_group, tuple(split))
    if len(replicated) != 1:
        found = ", ".join(f"{n} ({mesh.size(a)})" for a, n in enumerate(names))
        raise ValueError(
            f"{where()}`{call}`: the model is sharded over the mesh [{found}], and "
            f"{len(replicated)} of its axes replicate every parameter where exactly 1 is "
            f"needed. Without replicas a value per rank would be a value per shard. Build "
            f'a 2-D mesh, init_device_mesh(..., mesh_dim_names=("replicate", "shard")), '
            f"and give it to fully_shard; or name the replicas with `process_group`."
        )
    inner = tuple(mesh.get_group(a) for a in axes if a != replicated[0])
    return Replicas(mesh.get_group(replicated[0]), inner)


def _refuse_shard_group(
    call: str,
    process_group: dist.ProcessGroup,
    split: Sequence[dist.ProcessGroup],
    names: Sequence[str],
) -> None:
    """Raise if two members of `process_group` hold shards of one replica."""
    members = set(dist.get_process_group_ranks(process_group))
    for group in split:
        shared = members & set(dist.get_process_group_ranks(group))
        if len(shared) > 1:
            raise ValueError(
                f"{where()}`{call}(process_group=...)`: ranks {sorted(shared)} hold shards "
                f"of the same replica, on the mesh {tuple(names)}. Give a group with one "
                f"rank of each replica, or leave the argument out to use the mesh."
            )
