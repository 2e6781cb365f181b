"""An exponential moving average of the converged weights, where the signal is unbiased.

Two uses. The probe scores each replica at a point between the average and its own weights,

    theta_eval = average + probe_mix * (theta_r - average),

so that the noise of the last steps weighs little and the replicas' differences remain: the
slope of the loss then says which rate makes *progress* rather than which damps noise (the
short-horizon bias). And it is where all replicas go back to after a loss spike.

All replicas hold the same average, so it costs one copy of the parameters, and another for
the time of a probe. Half-precision weights are averaged in float32: a share of seven percent
of a small change would vanish in the rounding. Of the model's buffers, such as batch-norm
statistics, the last converged values are kept, for a rollback: they are averages already.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...state import Entries
from ..ensemble.contents import is_dtensor, local_part
from ..ensemble.optimizer_state import reset_state
from .config import DEFAULT, SearchConfig

_HALF = (torch.float16, torch.bfloat16)


def _local(tensor: Tensor) -> Tensor:
    return local_part(tensor.detach())


def _norm(tensors: Iterable[Tensor]) -> float:
    """Return the norm of all tensors together; infinite where float32 does not hold it."""
    norms = [torch.linalg.vector_norm(t).float() for t in tensors]
    return float(torch.stack([n.to(norms[0].device) for n in norms]).norm()) if norms else 0.0


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the precision in which weights of a dtype are averaged."""
    return torch.float32 if dtype in _HALF else dtype


class AveragedWeights:
    """The average, and what is done with it. Local; it is equal on all replicas.

    Args:
        optimizer: whose parameters are averaged.
        model: whose floating-point buffers are kept; None for none.
        config: the constants.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module | None = None,
        config: SearchConfig = DEFAULT,
    ) -> None:
        self._optimizer = optimizer
        self._model = model
        self._config = config
        self._kept_buffers: list[Tensor] = []
        self._average: list[Tensor] | None = None
        self._provisional = False  # whether it is only to go back to
        self._refused = 0

    @property
    def exists(self) -> bool:
        """Whether there is anything to go back to."""
        return self._average is not None

    def _parameters(self) -> list[Tensor]:
        """Return what is averaged; quantised weights, which have no arithmetic, stay put."""
        held = (p for group in self._optimizer.param_groups for p in group["params"])
        return [p for p in held if p.is_complex() or (p.is_floating_point() and p.itemsize > 1)]

    def _weights(self) -> list[Tensor]:
        return [_local(p) for p in self._parameters()]

    def _float_buffers(self) -> list[Tensor]:
        buffers = [] if self._model is None else self._model.buffers()
        return [b for b in buffers if b.is_floating_point()]

    def _buffers(self) -> list[Tensor]:
        return [_local(b) for b in self._float_buffers()]

    def keep(self) -> None:
        """Keep the weights as they are, to go back to until the first are averaged."""
        self._average = None
        self.update()
        self._provisional = True

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights, right after the replicas have converged."""
        weights = self._weights()
        if self._average is None or self._provisional:
            self._average = [w.to(_wide(w.dtype), copy=True) for w in weights]
            self._provisional = False
        elif self._near(self._average, weights):
            for average, weight in zip(self._average, weights, strict=True):
                average.lerp_(weight.to(average.dtype), self._config.averaging_weight)
        else:
            return
        self._kept_buffers = [b.clone() for b in self._buffers()]

    def _near(self, averages: list[Tensor], weights: list[Tensor]) -> bool:
        """Return whether the weights are in proportion to the average, or stay where they are.

        Where the model is sharded each process looks at its own shards; replicas, whose shards
        are equal, decide alike.
        """
        gap = _norm(weight - average for average, weight in zip(averages, weights, strict=True))
        size = _norm(averages)
        # Written so that NaN, or a norm beyond its type, is not near.
        near = gap <= self._config.max_weight_move * size or (size == 0 and math.isfinite(gap))
        self._refused = 0 if near else self._refused + 1
        return near or (
            self._refused > self._config.max_refused_weights
            and all(bool(w.isfinite().all()) for w in weights)
        )

    @contextmanager
    def between(self) -> Iterator[None]:
        """Put the model between the average and its own weights for the block."""
        if self._average is None or self._provisional:
            yield
            return
        weights = self._weights()
        own = [w.clone() for w in weights]
        with torch.no_grad():
            for weight, average in zip(weights, self._average, strict=True):
                mixed = torch.lerp(average, weight.to(average.dtype), self._config.probe_mix)
                weight.copy_(mixed)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, kept in zip(weights, own, strict=True):
                    weight.copy_(kept)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the average, the buffers of then, and the optimizer's first state."""
        if self._average is not None:
            for weight, average in zip(self._weights(), self._average, strict=True):
                weight.copy_(average)
            for buffer, kept in zip(self._buffers(), self._kept_buffers, strict=True):
                buffer.copy_(kept)
        reset_state(self._optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return the average by the parameters' indices; DTensors where those are.

        Before anything was averaged it holds the weights themselves, so that a state has
        the same entries at any time, as `torch.distributed.checkpoint` asks for.
        """
        kept = self._average or [w.to(_wide(w.dtype)) for w in self._weights()]
        entries = zip(self._parameters(), kept, strict=True)
        kept_buffers = self._kept_buffers or self._buffers()
        buffers = zip(self._float_buffers(), kept_buffers, strict=True)
        return {
            "exists": self.exists,
            "provisional": self._provisional,
            "refused": self._refused,
            "weights": {str(k): _like(p, a.clone()) for k, (p, a) in enumerate(entries)},
            "buffers": {str(k): _like(b, kept.clone()) for k, (b, kept) in enumerate(buffers)},
        }

    def parsed(self, entries: Entries) -> "AveragedWeights":
        """Return an average that a state holds, copied; nothing here changes.

        Raises:
            ValueError: if the state is damaged, or of another model or other shards.
        """
        exists = entries.boolean("exists")
        mine = self._parameters()
        wide = [_wide(p.dtype) for p in mine]
        weights = self._tensors(entries, "weights", mine, wide, exists)
        mine = self._float_buffers()
        buffers = self._tensors(entries, "buffers", mine, [b.dtype for b in mine], exists)
        fresh = AveragedWeights(self._optimizer, self._model, self._config)
        # States of older versions refused nothing.
        fresh._refused = entries.integer("refused") if entries.has("refused") else 0
        if exists:
            fresh._average, fresh._kept_buffers = weights, buffers
            known = entries.has("provisional")
            fresh._provisional = known and entries.boolean("provisional")
        return fresh

    def assign(self, parsed: "AveragedWeights") -> None:
        """Go on from what `parsed` returned."""
        vars(self).update(vars(parsed))

    @staticmethod
    def _tensors(
        entries: Entries,
        key: str,
        mine: Sequence[Tensor],
        dtypes: Sequence[torch.dtype],
        exists: bool,
    ) -> list[Tensor]:
        """Return copies of this process's parts of the saved tensors that belong to `mine`.

        Unless the average `exists` their values do not matter.
        """
        saved = entries.entries(key)
        if sorted(saved.keys()) != sorted(map(str, range(len(mine)))):
            entries.refuse(
                key,
                f"{len(saved.keys())} tensors",
                f"must be of this model, which has {len(mine)}",
                "build model and optimizer as they were when the state was saved",
            )
        pairs = enumerate(zip(mine, dtypes, strict=True))
        return [_part(saved, str(k), own, dtype, exists) for k, (own, dtype) in pairs]


def _part(saved: Entries, key: str, mine: Tensor, dtype: torch.dtype, exists: bool) -> Tensor:
    """Return a copy of this process's part of the saved tensor that belongs to `mine`."""
    given, own = saved.raw(key), _local(mine)
    if isinstance(given, Tensor) and _layout(given) != _layout(mine):
        saved.refuse(
            key,
            f"a tensor with {_layout(given) or 'no shards'}",
            f"must be sharded as the model is, with {_layout(mine) or 'no shards'}",
            "build the model as it was when the state was saved; to change the sharding, save "
            "and load with torch.distributed.checkpoint",
        )
    local = _local(given) if isinstance(given, Tensor) else given
    # Only a complex tensor may be read from a complex one.
    exact = own.dtype if own.is_complex() else None
    local = saved.check_tensor(key, local, own.shape, exact, finite=False)
    copied = local.to(own.device, dtype, copy=True)
    # A buffer may hold infinities for good, such as a mask; then the model has them too.
    odd = ~copied.isfinite()
    same = torch.isclose(copied[odd], own[odd].to(copied.dtype), equal_nan=True)
    if exists and not bool(same.all()):
        saved.refuse(key, f"a tensor of shape {tuple(copied.shape)}", "must be finite")
    return copied


def _layout(tensor: Tensor) -> str:
    """Return how a tensor is sharded, in words; nothing for a plain one."""
    if not is_dtensor(tensor):
        return ""
    return f"{list(tensor.placements)} of {tuple(tensor.shape)}"


def _like(parameter: Tensor, local: Tensor) -> Tensor:
    """Return this process's part of a tensor as the parameter is: sharded, or plain."""
    if not is_dtensor(parameter):
        return local
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
