"""Do the learning rates that a replica is given reach its weights?

An optimizer that keeps rates of its own, as a container of others does, trains all replicas
alike, whatever is written into its parameter groups. It shows at a sync: the rates differed and
the weights have moved, and yet they are equal to the last bit on all replicas.

Weights that have not moved say nothing: they may be frozen, their gradients zero, or the rates
too small for their precision. Half precision is not looked at, where two rates can round to the
same step, nor is an interval in which something else has averaged the weights.
"""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...errors import where
from . import averaging
from .contents import digest, local_floats
from .groups import Replicas

_SAMPLED, _ELEMENTS = 4, 2**16  # tensors of a group, and elements of each, at most
_FAR = 1e-5  # a sum's move relative to the norm, beyond what rounding does

# By optimizer, for several schedulers may watch one: the samples' sums when it was last
# averaged, and how many times `average_` had been called.
_marks: "weakref.WeakKeyDictionary[Optimizer, tuple[list[list[float]], int]]"
_marks = weakref.WeakKeyDictionary()


def differing(rates: Sequence[Sequence[float]]) -> list[int]:
    """Return the parameter groups whose rates differ between replicas, by 1 % or more."""
    return [g for g, row in enumerate(rates) if max(row) > 1.01 * min(row) >= 0]


class RateEffect:
    """Watches the weights of an optimizer whose rates differ between the replicas."""

    def __init__(self, optimizer: Optimizer, name: str) -> None:
        self._optimizer = optimizer
        self._name = name
        self._begun = False

    def begin(self) -> None:
        """Note the weights as they are, if they never were. Local."""
        if not self._begun and self._optimizer not in _marks:
            self.mark()
        self._begun = True

    def mark(self) -> None:
        """Note the weights, right after they were averaged. Waits for the device. Local."""
        samples = [self._sample(g) for g in range(len(self._optimizer.param_groups))]
        sums = iter(_read([s.sum() for sample in samples for s in sample]))
        marks = [[next(sums) for _ in sample] for sample in samples]
        _marks[self._optimizer] = marks, averaging.calls()

    def row(self, groups: Sequence[int], device: torch.device) -> Tensor:
        """Return for each of `groups` the digest of a sample, and whether it has moved."""
        numbers: list[float] = []
        marks, calls = _marks.get(self._optimizer, ([], 0))
        if calls != averaging.calls():
            marks = []
        for group in groups:
            sample = self._sample(group)
            before = marks[group] if group < len(marks) else []
            sums = _read([s.sum() for s in sample])
            norms = _read([torch.linalg.vector_norm(s) for s in sample])
            moved = len(before) == len(sample) and any(
                abs(now - old) > _FAR * norm
                for now, old, norm in zip(sums, before, norms, strict=True)
            )
            numbers += [_total(sample), float(moved)]
        return torch.tensor(numbers, dtype=torch.float64, device=device)

    def refuse_none(
        self,
        groups: Sequence[int],
        rows: Sequence[Sequence[float]],
        replicas: Replicas,
        device: torch.device,
    ) -> None:
        """Raise on every rank if rates had no effect. Collective where a sample says so.

        Args:
            groups: the parameter groups whose rates differ.
            rows: what `row` gave on every replica.
            replicas: the replicas.
            device: where the collective runs.

        Raises:
            RuntimeError: naming the parameter groups.
        """
        suspects = [
            group
            for k, group in enumerate(groups)
            if len({row[2 * k] for row in rows}) == 1 and all(row[2 * k + 1] for row in rows)
        ]
        if not suspects:
            return
        whole = [_total(self._weights(group)) for group in suspects]
        digests = torch.tensor(whole, dtype=torch.float64, device=device)
        gathered = replicas.gather(replicas.sum_inner_(digests))
        same = [g for k, g in enumerate(suspects) if len({row[k] for row in gathered}) == 1]
        if same:
            raise RuntimeError(
                f"{where()}`{self._name}`: the replicas trained with different rates in "
                f"parameter groups {same}, yet their weights have moved and are equal to the "
                f"last bit. Either {type(self._optimizer).__name__} does not use the `lr` of "
                f"its parameter groups, as a container of optimizers does not: make one "
                f"scheduler for each optimizer inside. Or other code sets the rates, or "
                f"averages the weights, at every step: leave that to `{self._name}`."
            )

    def _weights(self, group: int) -> list[Tensor]:
        """Return the trained weights of a group, but for half precision."""
        held = self._optimizer.param_groups[group]["params"]
        floats = local_floats(p.detach() for p in held if p.requires_grad)
        return [t for t in floats if t.itemsize >= 4]

    def _sample(self, group: int) -> list[Tensor]:
        weights = self._weights(group)
        chosen = weights[:: max(1, -(-len(weights) // _SAMPLED))]
        return [t.flatten()[:_ELEMENTS] for t in chosen]


def _read(numbers: Sequence[Tensor]) -> list[float]:
    """Return scalars as floats; waits for each device once."""
    if not numbers:
        return []
    first = numbers[0].device
    return torch.stack([n.to(first).double() for n in numbers]).tolist()


def _total(tensors: Sequence[Tensor]) -> float:
    """Return one number for the content of all tensors."""
    digests = _read([digest(t) for t in tensors])
    return float(sum(int(d) * (k + 1) for k, d in enumerate(digests)) & 0xFFFFFFFF)
