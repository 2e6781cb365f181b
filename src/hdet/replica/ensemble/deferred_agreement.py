"""How far an old update of the weights and the gradients of now agree: was the rate too low?

With u, the displacement of the weights between two syncs, and g_t, gradients some steps later,

    cosine = -sum_t(g_t u) / sqrt(sum_t |g_t|^2 * sum_t |u|^2)

over all trained parameters is positive where the gradients still ask for more of what the
weights have done: a larger rate would have been better for the loss of then. Right after an
update that is the hypergradient of the rate (Baydin et al., arXiv 1703.04782), which takes what
the next steps undo for damage; some steps later it is about what has stayed.

All replicas hold the same displacement and share the gradients, so they read the same number. A
hook before the optimizer's step adds up the sums on the device; the host does not wait before
`read`, the one collective. It costs a copy of the weights.
"""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...state import Entries
from .groups import Replicas
from .step_hook import before_update
from .update_agreement import Agreement, agreement_of, unscaled_
from .update_sums import SUMS, buckets, part

_log = logging.getLogger("hdet")


class DeferredAgreement:
    """Compares a displacement of one optimizer's weights with the gradients of later steps.

    Args:
        optimizer: whose weights, of any kind. What has no gradient at a step is left out of
            it. A step that a GradScaler skips does not count.
        replicas: who they are. Their numbers are averaged: the sums are.
    """

    def __init__(self, optimizer: Optimizer, replicas: Replicas) -> None:
        self._optimizer = optimizer
        self._replicas = replicas
        device = next((p.device for p in self._parameters()), torch.device("cpu"))
        self._total = torch.zeros(SUMS, dtype=torch.float64, device=device)
        self._held: dict[Tensor, Tensor] = {}  # where a displacement began, less where it ended
        self._scoring = False
        self._hook = before_update(optimizer, self._look)

    @torch.no_grad()
    def mark(self) -> None:
        """Note where the weights are: a displacement begins. Local."""
        self.forget()  # first, so that there are never two copies
        self._held = {p: part(p).clone() for p in self._parameters() if p.requires_grad}

    @torch.no_grad()
    def displace(self) -> None:
        """Keep how far the weights have come since `mark`. Local."""
        for p in [p for p, start in self._held.items() if start.shape != part(p).shape]:
            del self._held[p]  # of other shards
        for p, start in self._held.items():
            start.sub_(part(p))

    def score(self) -> None:
        """Compare it with the gradients of the steps that come. Local."""
        self._total.zero_()
        self._scoring = True

    def read(self) -> Agreement:
        """Return what they say. Collective; waits for the device."""
        return agreement_of(self._total, self._replicas)

    def forget(self) -> None:
        """Drop it, after the weights were set to others; frees its memory. Local."""
        self._held, self._scoring = {}, False
        self._total.zero_()

    def close(self) -> None:
        """Watch no longer, and free the memory. Local."""
        self._hook.remove()
        self.forget()

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors, with this process's part of the displacement. Local."""
        return {
            "shard": self._replicas.shard,
            "held": {
                str(k): self._held[p].clone()
                for k, p in enumerate(self._parameters())
                if p in self._held
            },
            "total": self._total.cpu(),
            "scoring": self._scoring,
        }

    def parsed(self, entries: Entries) -> "_State | None":
        """Return what `assign` takes, copied; None for the state of other shards.

        Raises:
            ValueError: if the state is damaged, or of another model.
        """
        if entries.integers("shard") != self._replicas.shard:
            _log.warning(
                "the update that the learning rate follows is of other shards: dropped"
            )
            return None
        saved, held = entries.entries("held"), {}
        parameters = list(self._parameters())
        for key in saved.whole():
            if key not in map(str, range(len(parameters))):
                entries.refuse("held", key, f"must be below {len(parameters)}")
            own = part(parameters[int(key)])
            found = saved.tensor(key, own.shape, own.dtype, finite=False)
            held[parameters[int(key)]] = found.to(own.device, copy=True)
        total = entries.tensor("total", (SUMS,), torch.float64, finite=False)
        return _State(held, total, entries.boolean("scoring"))

    def assign(self, parsed: "_State") -> None:
        """Go on from what `parsed` returned."""
        self._held, self._scoring = parsed.held, parsed.scoring
        self._total.copy_(parsed.total)

    # --- at a step

    @torch.no_grad()
    def _look(self) -> None:
        """Take in the gradients of now."""
        if not self._scoring:
            return
        found = buckets(self._optimizer, self._held, self._replicas, noting=False)
        sums = [bucket.sums_kept().to(self._total.device) for bucket in found]
        if sums:
            newest = torch.cat([torch.stack(sums).sum(0), torch.ones_like(self._total[:1])])
            unscaled_(newest, self._optimizer)
            self._total.add_(newest)

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self._optimizer.param_groups for p in group["params"])


class _State(NamedTuple):
    """What a state holds, read."""

    held: dict[Tensor, Tensor]
    total: Tensor
    scoring: bool
