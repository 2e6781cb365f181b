"""The sums over all parameters that agreements are made of: one pass, many at a time.

Each operation is issued for a bucket of tensors at once. Those of the newest update
(`update_agreement`) are made in the memory of the last weights: they become the update, then
its products with the gradient, and at last the weights of now. Only half precision, in which
the products would vanish, takes a float32 copy of a bucket besides. An old update
(`deferred_agreement`) is kept, and its products take a bucket of their own.
"""

# torch's multi-tensor operations have names with an underscore, and no other.
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...errors import where
from .contents import is_dtensor, local_part
from .groups import Replicas

SUMS = 5  # -sum(g w), sum|g w|, sum(g g), sum(w w), and how many steps
_BUCKET = 2**24  # elements: few enough for another copy of half precision, enough for a kernel


def buckets(
    optimizer: Optimizer,
    previous: dict[Tensor, Tensor],
    replicas: Replicas,
    noting: bool = True,
) -> "Iterator[Bucket]":
    """Yield the parameters that have a gradient and whose last weights are known.

    Args:
        optimizer: whose parameters.
        previous: by parameter, this process's part of the last weights, or of an old update.
        replicas: who they are.
        noting: whether weights that are not there yet, or have another layout now, are noted
            there; else they are left out.

    Raises:
        ValueError: before anything changes, if a gradient is sparse.
    """
    trained = [
        (group, p)
        for group in optimizer.param_groups
        for p in group["params"]
        if p.requires_grad and p.grad is not None
    ]
    if any(p.grad.layout != torch.strided for _, p in trained):
        raise ValueError(
            f"{where()}The search for the learning rate does not work with sparse gradients: "
            f"make the embedding with `sparse=False`, or give it an optimizer of its own."
        )
    processes = math.prod(replicas.shape[1:])
    kinds: dict[tuple, list[Bucket]] = {}
    for group, p in trained:
        weight, gradient = part(p), _gradient(p)
        if not weight.numel() or weight.itemsize < 2:
            continue
        last = previous.get(p)
        if last is None or _layout(last) != _layout(weight):
            if noting:
                previous[p] = weight.clone()
            continue
        share, sign = 1 / _copies(p, processes), -1 if group.get("maximize", False) else 1
        kind = (weight.device, weight.dtype, gradient.dtype, share, sign)
        found = kinds.setdefault(kind, [])
        if not found or found[-1].size + weight.numel() > _BUCKET:
            found.append(Bucket(share, sign))
        found[-1].add(weight, last, gradient)
    for found in kinds.values():
        yield from found


class Bucket:
    """Tensors of one device and type, on which each operation is done together.

    Args:
        share: what the sums of this process count for.
        sign: -1 where the optimizer climbs.

    Attributes:
        size: elements so far.
    """

    def __init__(self, share: float, sign: int) -> None:
        self._share, self._sign = share, sign
        self._weights: list[Tensor] = []
        self._previous: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self.size = 0

    def add(self, weight: Tensor, previous: Tensor, gradient: Tensor) -> None:
        """Take up a parameter's tensors, which have the same shape."""
        self._weights.append(weight)
        self._previous.append(previous)
        self._gradients.append(gradient)
        self.size += weight.numel()

    def sums(self) -> Tensor:
        """Return -sum(g w), sum|g w|, sum(g g), sum(w w); keep the weights for the next time.

        Float64, on the tensors' device; not finite if any element is not.
        """
        work = self._previous
        if work[0].itemsize < 4:
            work = [t.float() for t in work]
        torch._foreach_sub_(work, self._weights)
        sums = self._sums(work)
        torch._foreach_copy_(self._previous, self._weights)
        return sums

    def sums_kept(self) -> Tensor:
        """Return the same where what was added as previous weights is -w itself; keep it."""
        copied = self._previous[0].itemsize < 4
        return self._sums([t.float() if copied else t.clone() for t in self._previous])

    def _sums(self, work: list[Tensor]) -> Tensor:
        """Return the sums for -w, whose memory is used up."""
        wide = torch.promote_types(work[0].dtype, self._gradients[0].dtype)
        moved = _sum(torch._foreach_norm(work), square=True)
        slope = _sum(torch._foreach_norm(self._gradients, 2, wide), square=True)
        torch._foreach_mul_(work, self._gradients)
        size = _sum(torch._foreach_norm(work, 1))
        # Many tensors have a common norm and no common sum. It is the norm less twice the norm
        # of what is below zero.
        torch._foreach_clamp_max_(work, 0)
        signed = size - 2 * _sum(torch._foreach_norm(work, 1))
        return torch.stack([self._sign * signed, size, slope, moved]) * self._share


def part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor; real and imaginary parts of a complex one."""
    local = local_part(tensor)
    return torch.view_as_real(local.resolve_conj()) if local.is_complex() else local


def _gradient(parameter: Tensor) -> Tensor:
    """Return this process's part of the gradient, laid out as the weights are."""
    gradient = parameter.grad
    assert gradient is not None
    if is_dtensor(parameter) and is_dtensor(gradient):
        wanted = parameter.placements
        if gradient.placements != wanted:
            # A sum that is still to come, which the optimizer asks for too. Collective.
            gradient = gradient.redistribute(placements=wanted)
    return part(gradient)


def _copies(parameter: Tensor, processes: int) -> int:
    """Return how many of a replica's processes hold the same part of a parameter."""
    shards = 1
    if is_dtensor(parameter):
        mesh, placements = parameter.device_mesh, parameter.placements
        split = [a for a, placement in enumerate(placements) if not placement.is_replicate()]
        shards = math.prod(mesh.size(a) for a in split)
    return max(1, processes // shards)


def _layout(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.dtype, tensor.device


def _sum(norms: Sequence[Tensor], square: bool = False) -> Tensor:
    wide = torch.stack(list(norms)).double()
    return (wide.square() if square else wide).sum()
