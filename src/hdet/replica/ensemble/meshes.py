"""Which processes are the replicas: found from the parameters' own device meshes.

The replicas are the one axis along which no parameter is split: `replicate` of FSDP2's
`(replicate, shard)` mesh, also where tensor parallelism splits the replica further. A model
that is split over all processes has no replicas: a value per rank would silently become a
value per shard, and is refused.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ...errors import where
from .contents import dtensors
from .groups import Replicas, group_ranks, require_membership
from .setup_checks import SHARDED

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# What people call the axis of replicas, where only its name can tell.
_NAMES = ("replicate", "dp_replicate", "dp", "ddp", "data", "data_parallel", "rep")

_Ranks = tuple[int, ...]


def find_replicas(
    tensors: Iterable[Tensor],
    call: str,
    process_group: dist.ProcessGroup | DeviceMesh | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Replicas:
    """Find the replicas from the tensors themselves. Local, no communication.

    Args:
        tensors: the model's parameters.
        call: the public name to put into an error.
        process_group: the replicas, where the caller knows better; or a mesh whose first
            axis are the replicas, and its other axes the processes of one replica.
        rank: this replica's index, for use without a process group only.
        world_size: the number of replicas, likewise.

    Returns:
        The replicas.

    Raises:
        ValueError: if a tensor is sharded and no mesh axis replicates all of them, if one
            is sharded over the group given, or by FSDP1; or if this process is not in it.
    """
    require_membership(process_group, call)
    tensors = list(tensors)
    refuse_fsdp1(tensors, call)
    split = dtensors(tensors)
    if isinstance(process_group, DeviceMesh):
        first, *others = (process_group.get_group(a) for a in range(process_group.ndim))
        _refuse_shard_group(call, first, split)
        return Replicas(first, tuple(others), everyone=_everyone(process_group))
    if not split:
        return Replicas(process_group, (), rank, world_size)
    if process_group is not None:
        _refuse_shard_group(call, process_group, split)
        return Replicas(process_group, tuple(_shard_groups(split).values()))
    mesh = max((t.device_mesh for t in split), key=lambda m: m.ndim)
    axes = {_ranks(mesh, a): a for a in range(mesh.ndim)}
    common = set(axes).intersection(*(_replicated(t) for t in split))
    if len(common) == 1:
        found = axes[common.pop()]
        inner = tuple(mesh.get_group(a) for a in range(mesh.ndim) if a != found)
        return Replicas(mesh.get_group(found), inner, everyone=_everyone(mesh))
    outer = _outer_axis(mesh, set(axes)) if not common else None
    if outer is not None:
        inner = tuple(mesh.get_group(a) for a in range(mesh.ndim))
        return Replicas(outer, inner)
    names = mesh.mesh_dim_names or tuple(f"axis {a}" for a in range(mesh.ndim))
    sizes = ", ".join(f"{name} ({mesh.size(a)})" for a, name in enumerate(names))
    raise ValueError(
        f"{where()}`{call}`: the model is sharded over the mesh [{sizes}], and "
        f"{len(common)} of its axes replicate every parameter where exactly 1 is "
        f"needed. Without replicas a value per rank would be a value per shard. Build "
        f'a 2-D mesh, init_device_mesh(..., mesh_dim_names=("replicate", "shard")), '
        f"and give it to fully_shard; or name the replicas with `process_group`."
    )


def refuse_fsdp1(tensors: Iterable[Tensor], call: str) -> None:
    """Raise a `ValueError` if FSDP1 has sharded any of the tensors. Local."""
    # The mark that it puts on flat parameters, and on the views of `use_orig_params`.
    if any(hasattr(t, "_fsdp_flattened") for t in tensors):
        raise ValueError(
            f"{where()}`{call}` does not work with FullyShardedDataParallel (FSDP1). {SHARDED}"
        )


def reshard(model: nn.Module | None) -> None:
    """Tell FSDP2 that the weights have changed: it gathers them again when next needed.

    After a forward pass without gradients the outermost module keeps the gathered weights,
    and would go on with them whatever has been written to the shards. Local.
    """
    for module in model.modules() if model is not None else ():
        if any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__):
            module.reshard()  # pyright: ignore[reportCallIssue]


def _ranks(mesh: DeviceMesh, axis: int) -> _Ranks:
    return group_ranks(mesh.get_group(axis))


def _everyone(mesh: DeviceMesh) -> _Ranks:
    return tuple(mesh.mesh.flatten().tolist())


def _replicated(tensor: "DTensor") -> set[_Ranks]:
    """Return the groups over which the tensor is not split."""
    mesh = tensor.device_mesh
    return {
        _ranks(mesh, a)
        for a, placement in enumerate(tensor.placements)
        if placement.is_replicate()
    }


def _shard_groups(tensors: "list[DTensor]") -> dict[_Ranks, dist.ProcessGroup]:
    """Return the groups over which any of the tensors is split."""
    found = {}
    for tensor in tensors:
        mesh = tensor.device_mesh
        for a, placement in enumerate(tensor.placements):
            if not placement.is_replicate():
                found[_ranks(mesh, a)] = mesh.get_group(a)
    return found


def _outer_axis(mesh: DeviceMesh, inside: set[_Ranks]) -> dist.ProcessGroup | None:
    """Return the axis of replicas of the mesh that `mesh` was cut from, if there is one.

    As with `fully_shard` or tensor parallelism on `mesh["tp"]` of a `(dp, tp)` mesh. There
    a pipeline's axis would look alike, so that its name has to say what it is.
    """
    whole = getattr(mesh, "_get_root_mesh", lambda: mesh)()
    names = whole.mesh_dim_names or ()
    outside = [a for a in range(whole.ndim) if _ranks(whole, a) not in inside]
    if len(outside) == 1 and names and names[outside[0]] in _NAMES:
        return whole.get_group(outside[0])
    return None


def _refuse_shard_group(
    call: str, process_group: dist.ProcessGroup, tensors: "list[DTensor]"
) -> None:
    """Raise if two members of `process_group` hold shards of one replica."""
    members = set(group_ranks(process_group))
    for ranks in _shard_groups(tensors):
        shared = members & set(ranks)
        if len(shared) > 1:
            raise ValueError(
                f"{where()}`{call}(process_group=...)`: ranks {sorted(shared)} hold shards "
                f"of the same replica. Give a group with one rank of each replica, or leave "
                f"the argument out to use the mesh."
            )
