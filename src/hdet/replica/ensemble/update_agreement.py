"""How far the last update of the weights and the new gradient agree: is the rate too low?

With w = theta_t - theta_{t-1}, the last update, and g_t, the gradient of now, over all trained
parameters,

    agreement = -sum(g w) / sum|g w|        cosine = -sum(g w) / (|g| |w|)

are positive where the gradient still asks for what the last step has done: the step was too
short. Both lie in [-1, 1]. The agreement is the better unit: far below the best rate it is
close to 1 whatever the number of parameters. This is the hypergradient of the learning rate
(Baydin et al., arXiv 1703.04782, there for SGD and Adam), normalised; replicas that share their
gradient have it for one pass over the parameters, without a probe.

A hook before the optimizer's step adds up the four sums on the device (`update_sums`); the host
does not wait before `read`, the one collective. It costs a copy of the weights.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...state import Entries
from .groups import Replicas
from .step_hook import before_update
from .update_sums import SUMS, buckets, part

_log = logging.getLogger("hdet")


@dataclass(frozen=True)
class Agreement:
    """How far updates and the gradients after them agreed; equal on every rank.

    Attributes:
        agreement: -sum(g w) / sum|g w|, -1 to 1; 0 unless `known`.
        cosine: -sum(g w) / (|g| |w|), -1 to 1; 0 unless `known`.
        steps: optimizer steps that it is about: the sums are over all of them.
        finite: whether all gradients and weights were.
        known: whether there is a number: two steps in a row, weights that moved, all finite.
    """

    agreement: float = 0.0
    cosine: float = 0.0
    steps: int = 0
    finite: bool = True
    known: bool = False


class UpdateAgreement:
    """Watches the updates of one optimizer, from its next step on.

    Args:
        optimizer: whose steps are watched, of any kind. Parameters that are frozen or have no
            gradient are left out of a step. A step that a GradScaler skips does not count.
        replicas: who they are. Their numbers are averaged: the sums are.
    """

    def __init__(self, optimizer: Optimizer, replicas: Replicas) -> None:
        self._optimizer = optimizer
        self._replicas = replicas
        self._device = next((p.device for p in self._parameters()), torch.device("cpu"))
        # Written in place only, for captured graphs.
        self._newest = torch.zeros(SUMS, dtype=torch.float64, device=self._device)
        # False if the last step was skipped where only the device knows: nothing moved.
        self._stepped = torch.ones((), dtype=torch.bool, device=self._device)
        self._previous: dict[Tensor, Tensor] = {}
        self._hook = before_update(optimizer, self._look)

    def read(self) -> Agreement:
        """Return what the replicas saw at the newest step. Collective; waits for the device."""
        return agreement_of(self._newest, self._replicas)

    def forget(self) -> None:
        """Drop the last weights, after they were set to others; frees their memory. Local.

        The next step then gives no number: what lies between the weights is no update.
        """
        self._previous.clear()
        self._newest.zero_()

    def close(self) -> None:
        """Watch no longer, and free the memory. Local."""
        self._hook.remove()
        self.forget()

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors, with this process's part of the last weights. Local.

        Replicas whose weights are equal may load one another's.
        """
        return {
            "shard": self._replicas.shard,
            "previous": {
                str(k): self._previous[p].clone()
                for k, p in enumerate(self._parameters())
                if p in self._previous
            },
            "newest": self._newest.cpu(),
            "stepped": bool(self._stepped),
        }

    def parsed(self, entries: Entries) -> "_State":
        """Return what `assign` takes, copied; nothing here changes.

        Of a state of other shards nothing is taken up: the next step gives no number.

        Raises:
            ValueError: if the state is damaged, or of another model.
        """
        if entries.integers("shard") != self._replicas.shard:
            _log.warning("the sums of the learning rate's search are of other shards: dropped")
            return _State({}, torch.zeros(SUMS, dtype=torch.float64), True)
        saved, previous = entries.entries("previous"), {}
        parameters = list(self._parameters())
        for key in saved.whole():
            if key not in map(str, range(len(parameters))):
                entries.refuse("previous", key, f"must be below {len(parameters)}")
            p = parameters[int(key)]
            own = part(p)
            found = saved.tensor(key, own.shape, own.dtype, finite=False)
            previous[p] = found.to(own.device, copy=True)
        newest = entries.tensor("newest", (SUMS,), torch.float64, finite=False)
        return _State(previous, newest, entries.boolean("stepped"))

    def assign(self, parsed: "_State") -> None:
        """Go on from what `parsed` returned."""
        self._previous = parsed.previous
        self._newest.copy_(parsed.newest)
        self._stepped.fill_(parsed.stepped)

    # --- at a step

    @torch.no_grad()
    def _look(self) -> None:
        """Take in the gradients of now; the weights are still those that they belong to."""
        found = buckets(self._optimizer, self._previous, self._replicas)
        sums = [bucket.sums().to(self._device) for bucket in found]
        self._newest.zero_()
        if sums:
            self._newest[:4] = torch.stack(sums).sum(0)
            self._newest[4].fill_(1)
        stepped = unscaled_(self._newest, self._optimizer)
        if stepped is not None:
            # And where it was skipped the weights will be the same at the next step.
            self._newest.masked_fill_(~self._stepped, 0)
            self._stepped.copy_(stepped)

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self._optimizer.param_groups for p in group["params"])


class _State(NamedTuple):
    """What a state holds, read."""

    previous: dict[Tensor, Tensor]
    newest: Tensor
    stepped: bool


def agreement_of(sums: Tensor, replicas: Replicas) -> Agreement:
    """Return what the sums of this process say, averaged over the replicas. Collective."""
    gathered = replicas.connected
    rows = replicas.gather(replicas.sum_inner_(sums.clone())) if gathered else [sums.tolist()]
    means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    signed, size, slope, moved, steps = means
    count = round(steps / math.prod(replicas.shape[1:]))
    if not all(map(math.isfinite, means)):
        return Agreement(steps=count, finite=False)
    if not size:
        return Agreement(steps=count)
    return Agreement(
        signed / size, signed / (math.sqrt(slope) * math.sqrt(moved)), count, known=True
    )


def unscaled_(sums: Tensor, optimizer: Optimizer) -> Tensor | None:
    """Divide a step's sums by a GradScaler's scale, where only the optimizer's kernel does.

    Returns:
        Whether the step is taken, where only the device knows it; then the sums of one that is
        skipped are zeros.
    """
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None:
        sums[:3].div_(scale.to(sums.device))
        sums[2].div_(scale.to(sums.device))
    found_inf = getattr(optimizer, "found_inf", None)
    if found_inf is None:
        return None
    stepped = (found_inf.to(sums.device) == 0).reshape(())
    sums.masked_fill_(~stepped, 0)
    return stepped
