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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...state import Entries
from .groups import Replicas
from .step_hook import before_update
from .update_sums import buckets, part

_log = logging.getLogger("hdet")

_SUMS = 5  # -sum(g w), sum|g w|, sum(g g), sum(w w), and how many steps


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


class Reading(NamedTuple):
    """What `UpdateAgreement.read` returns.

    Attributes:
        newest: of the newest step.
        mean: over the steps since the last `reset`, weighted by sum|g w|.
    """

    newest: Agreement
    mean: Agreement


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
        self._newest, self._total = self._zeros(), self._zeros()
        # False if the last step was skipped where only the device knows: nothing moved.
        self._stepped = torch.ones((), dtype=torch.bool, device=self._device)
        self._previous: dict[Tensor, Tensor] = {}
        self._hook = before_update(optimizer, self._look)

    def read(self) -> Reading:
        """Return what the replicas have seen. Collective; waits for the device."""
        row, replicas = torch.cat([self._newest, self._total]), self._replicas
        gathered = replicas.connected
        rows = replicas.gather(replicas.sum_inner_(row)) if gathered else [row.tolist()]
        means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        processes = math.prod(replicas.shape[1:])
        return Reading(
            _agreement(means[:_SUMS], processes), _agreement(means[_SUMS:], processes)
        )

    def reset(self) -> None:
        """Begin a new mean. Local."""
        self._total.zero_()

    def forget(self) -> None:
        """Drop the last weights, after they were set to others; frees their memory. Local.

        The next step then gives no number: what lies between the weights is no update.
        """
        self._previous.clear()
        self._newest.zero_()

    def merge(self) -> "_State":
        """Forget, and give all replicas the mean of their sums. Collective.

        Returns:
            What it was before, for `assign`.
        """
        sums = torch.stack([self._newest, self._total])
        own = _State(self._previous, sums, bool(self._stepped))
        rows = self._replicas.gather(self._total) if self._replicas.connected else []
        if rows:
            means = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
            self._total.copy_(torch.tensor(means, dtype=torch.float64))
        self._previous = {}
        self._newest.zero_()
        return own

    def close(self) -> None:
        """Watch no longer, and free the memory. Local."""
        self._hook.remove()
        self.forget()
        self.reset()

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors, with this process's part of the last weights. Local.

        Replicas whose weights are equal may load one another's.
        """
        return {
            "shard": self._shard(),
            "previous": {
                str(k): self._previous[p].clone()
                for k, p in enumerate(self._parameters())
                if p in self._previous
            },
            "sums": torch.stack([self._newest, self._total]).cpu(),
            "stepped": bool(self._stepped),
        }

    def parsed(self, entries: Entries) -> "_State":
        """Return what `assign` takes, copied; nothing here changes.

        Of a state of other shards nothing is taken up: the next step gives no number.

        Raises:
            ValueError: if the state is damaged, or of another model.
        """
        if entries.integers("shard") != self._shard():
            _log.warning("the sums of the learning rate's search are of other shards: dropped")
            return _State({}, torch.zeros(2, _SUMS, dtype=torch.float64), True)
        saved, previous = entries.entries("previous"), {}
        parameters = list(self._parameters())
        for key in saved.whole():
            if key not in map(str, range(len(parameters))):
                entries.refuse("previous", key, f"must be below {len(parameters)}")
            p = parameters[int(key)]
            own = part(p)
            found = saved.tensor(key, own.shape, own.dtype, finite=False)
            previous[p] = found.to(own.device, copy=True)
        sums = entries.tensor("sums", (2, _SUMS), torch.float64, finite=False)
        return _State(previous, sums, entries.boolean("stepped"))

    def assign(self, parsed: "_State") -> None:
        """Go on from what `parsed` returned."""
        self._previous = parsed.previous
        self._newest.copy_(parsed.sums[0])
        self._total.copy_(parsed.sums[1])
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
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is not None:
            # A fused optimizer unscales in its kernel.
            self._newest[:3].div_(scale.to(self._device))
            self._newest[2].div_(scale.to(self._device))
        found_inf = getattr(self._optimizer, "found_inf", None)
        if found_inf is not None:
            # And there it skips; the weights will be the same at the next step.
            steps = (found_inf.to(self._device) == 0).reshape(())
            self._newest.masked_fill_(~(steps & self._stepped), 0)
            self._stepped.copy_(steps)
        self._total.add_(self._newest)

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self._optimizer.param_groups for p in group["params"])

    def _shard(self) -> list[int]:
        """Return which part of a replica this process is."""
        return [*self._replicas.shape[1:], *self._replicas.coordinate[1:]]

    def _zeros(self) -> Tensor:
        return torch.zeros(_SUMS, dtype=torch.float64, device=self._device)


class _State(NamedTuple):
    """What a state holds, read."""

    previous: dict[Tensor, Tensor]
    sums: Tensor
    stepped: bool


def _agreement(sums: Sequence[float], processes: int) -> Agreement:
    """Return what the four sums and the count say."""
    signed, size, slope, moved, steps = sums
    count = round(steps / processes)
    if not all(map(math.isfinite, sums)):
        return Agreement(steps=count, finite=False)
    if not size:
        return Agreement(steps=count)
    return Agreement(
        signed / size, signed / (math.sqrt(slope) * math.sqrt(moved)), count, known=True
    )
