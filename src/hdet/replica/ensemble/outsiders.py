"""Tensors of the model that no optimizer steps: which of them have to be averaged?

Buffers, a momentum teacher, anything that follows the weights: they differ between replicas,
and are averaged with the weights. Frozen weights and constant masks are the same everywhere,
and are not sent. What a tensor is shows in its content alone: the replicas compare a digest of
each, one number, and only those that differ are averaged.

A tensor that is not finite and the same everywhere, such as a causal mask of minus infinity,
is a constant like any other. One that differs from what most have makes its replica a broken
one; and so does one that was finite before and is NaN now, also where all have the same NaN.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .contents import digest, local_floats
from .groups import Replicas

# Name, tensor, and whether it is this ensemble's to average.
Named = tuple[str, Tensor, bool]


class Outsiders:
    """The tensors beside those that are averaged always.

    Args:
        list_tensors: returns the tensors as they are now; buffers come and go. The same
            names in the same order on every replica.
    """

    def __init__(self, list_tensors: Callable[[], Iterable[Named]]) -> None:
        self._list = list_tensors
        self._were_finite: set[str] = set()

    def look(self, device: torch.device) -> "View":
        """Return what there is now; waits for the device. Local."""
        named = [
            (name, part, mine) for name, t, mine in self._list() for part in local_floats([t])
        ]
        tensors = [tensor for _, tensor, _ in named]
        numbers: list[float] = []
        if named:
            rows = [
                torch.stack([digest(t).double(), t.sum().double()]) * mine
                for _, t, mine in named
            ]
            numbers = torch.stack([row.to(device) for row in rows]).flatten().tolist()
        # The sum of finite numbers can overflow; then every value is looked at.
        odd = [
            not math.isfinite(total) and not bool(tensor.isfinite().all())
            for tensor, total in zip(tensors, numbers[1::2], strict=True)
        ]
        numbers[1::2] = map(float, odd)
        turned = any(
            is_odd and name in self._were_finite and bool(tensor.isnan().any())
            for (name, tensor, _), is_odd in zip(named, odd, strict=True)
        )
        self._were_finite.update(
            name for (name, *_), is_odd in zip(named, odd, strict=True) if not is_odd
        )
        return View(tensors, numbers, turned)


def model_outsiders(model: nn.Module, own: set[int], others: set[int]) -> Iterator[Named]:
    """Yield the parameters of a model that an ensemble's optimizer lacks, and all buffers.

    Args:
        model: the module.
        own: ids of the optimizer's parameters.
        others: ids of those of other ensembles' optimizers, which see to them, and to the
            buffers of modules that are all theirs.
    """
    for name, parameter in model.named_parameters():
        if id(parameter) not in own:
            yield name, parameter, id(parameter) not in others
    for name, buffer in model.named_buffers():
        mine, path = True, name
        while others and path:
            path = path.rpartition(".")[0]
            around = [id(p) for p in model.get_submodule(path).parameters()]
            if around:
                mine = not others.issuperset(around)
                break
        yield name, buffer, mine


class View:
    """What a replica has of outsiders at one sync.

    Args:
        tensors: the local parts that have floats.
        numbers: digest, and whether it is not finite, of each.
        turned: whether one was finite before and is NaN now.
    """

    def __init__(self, tensors: list[Tensor], numbers: list[float], turned: bool) -> None:
        self.tensors = tensors
        self._numbers = numbers
        self.turned = turned

    @property
    def total(self) -> float:
        """One number that differs where any of the digests does."""
        return float(zlib.crc32(repr(self._numbers).encode()))

    def settle(
        self, totals: Sequence[float], replicas: Replicas, device: torch.device
    ) -> tuple[list[Tensor], set[int]]:
        """Return what has to be averaged, and which replicas are broken in that.

        Collective where the totals differ.

        Args:
            totals: every replica's `total`.
            replicas: who they are.
            device: on which the collective runs.
        """
        if len(set(totals)) == 1:
            return [], set()
        numbers = torch.tensor(self._numbers, dtype=torch.float64, device=device)
        rows = replicas.gather(replicas.sum_inner_(numbers))
        differing, broken = [], set()
        for index, tensor in enumerate(self.tensors):
            pairs = [row[2 * index : 2 * index + 2] for row in rows]
            if any(pair != pairs[0] for pair in pairs):
                differing.append(tensor)
                (usual, count) = Counter(map(tuple, pairs)).most_common(1)[0]
                # Where a mask was damaged on one replica, the others still have it.
                sound = usual if 2 * count > len(pairs) else None
                broken |= {
                    r for r, pair in enumerate(pairs) if pair[1] and tuple(pair) != sound
                }
        return differing, broken
