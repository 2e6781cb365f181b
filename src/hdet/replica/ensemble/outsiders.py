"""Which of the tensors that no optimizer steps have to be averaged?

Buffers, a momentum teacher, anything that follows the weights: they differ between replicas,
and are averaged with the weights. Frozen weights and constant masks are the same everywhere,
and are not sent. Only the content tells which: the replicas compare a digest of each tensor,
one number, and only those that differ are averaged.

A tensor that is the same everywhere and not finite, such as a causal mask of minus infinity,
is a constant like any other. A replica is broken if its tensor is not finite and is not what
most have; or if it was finite before and is NaN now, even where all have the same NaN.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

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
        rows = [
            torch.stack([digest(t).double(), t.sum().double()]) * mine for _, t, mine in named
        ]
        pairs = torch.stack([row.to(device) for row in rows]).tolist() if rows else []
        numbers: list[float] = []
        turned = False
        for (name, tensor, _), (content, total) in zip(named, pairs, strict=True):
            # The sum of finite numbers can overflow; then every value is looked at.
            odd = not math.isfinite(total) and not bool(tensor.isfinite().all())
            numbers += [content, float(odd)]
            if not odd:
                self._were_finite.add(name)
            elif name in self._were_finite and bool(tensor.isnan().any()):
                turned = True
        return View([tensor for _, tensor, _ in named], numbers, turned)


def model_outsiders(model: nn.Module, own: set[int], others: set[int]) -> Iterator[Named]:
    """Yield the parameters of a model that an ensemble's optimizer lacks, and all buffers.

    Args:
        model: the module.
        own: ids of the optimizer's parameters.
        others: ids of those of other ensembles' optimizers, which take care of them, and of
            the buffers of modules that are all theirs.
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


@dataclass(frozen=True)
class View:
    """What a replica has of outsiders at one sync.

    Attributes:
        tensors: the local parts that have floats.
        numbers: of each, its digest and whether it is not finite.
        turned: whether one was finite before and is NaN now.
    """

    tensors: list[Tensor]
    numbers: list[float]
    turned: bool

    @property
    def total(self) -> float:
        """One number that differs where any of the digests does."""
        return float(zlib.crc32(repr(self.numbers).encode()))

    def settle(
        self, totals: Sequence[float], replicas: Replicas, device: torch.device
    ) -> tuple[list[Tensor], set[int]]:
        """Return what has to be averaged, and which replicas are broken in that.

        Collective, on `device`, where the `totals` of the replicas differ.
        """
        if len(set(totals)) == 1:
            return [], set()
        numbers = torch.tensor(self.numbers, dtype=torch.float64, device=device)
        rows = replicas.gather(replicas.sum_inner_(numbers))
        differing, broken = [], set()
        for index, tensor in enumerate(self.tensors):
            pairs = [tuple(row[2 * index : 2 * index + 2]) for row in rows]
            if len(set(pairs)) > 1:
                differing.append(tensor)
                [(usual, count)] = Counter(pairs).most_common(1)
                # Where a mask was damaged on one replica, the others still have it.
                sound = usual if 2 * count > len(pairs) else None
                broken |= {r for r, pair in enumerate(pairs) if pair[1] and pair != sound}
        return differing, broken
