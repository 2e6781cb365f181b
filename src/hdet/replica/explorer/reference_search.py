"""The search for the rate's scale in `reference.train`: N models in one process, plainly.

What `searching` does with hooks, broadcasts and snapshots spread over ranks is here anew, with
copies of whole models and optimizers.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..ensemble.restart import restart_moments
from .rate_search import RateSearch, Turn


class _Copy(NamedTuple):
    log_rate: float
    models: list[dict[str, Any]]
    optimizers: list[dict[str, Any]]


class ReferenceSearch:
    """Does to `models` and `optimizers` what the search asks for.

    Args:
        search: where it stands; `shifts` of it are the replicas' rates.
        models: the replicas.
        optimizers: theirs.
        score: score(model, trial) -> loss on the batch that all score.
    """

    def __init__(
        self,
        search: RateSearch,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        score: Callable[[nn.Module, int], float],
    ) -> None:
        self._search = search
        self._models = models
        self._optimizers = optimizers
        self._score = score
        self._previous: list[Tensor] | None = None
        self._snapshots: list[_Copy] = []
        self._start: _Copy | None = None  # of a trial
        self._agreement: float | None = None

    @property
    def apart(self) -> bool:
        """Whether the step that comes is on each replica's own gradient."""
        return self._search.phase == "trial"

    @torch.no_grad()
    def before_step(self) -> None:
        """Compare the gradients with the last update; the weights have not moved yet."""
        weights = [p for p in self._models[0].parameters() if p.grad is not None]
        self._agreement = None
        if self._search.phase != "climb":
            return
        if self._previous is not None:
            pairs = zip(weights, self._previous, strict=True)
            moved = [(p.grad, p.double() - old.double()) for p, old in pairs]
            products = [g.double() * w for g, w in moved if g is not None]
            signed = -math.fsum(float(x.sum()) for x in products)
            size = math.fsum(float(x.abs().sum()) for x in products)
            self._agreement = signed / size if size else None
        self._previous = [p.detach().clone() for p in weights]

    def after_step(self) -> Turn:
        """Take in the step, and do what the search asks for."""
        rate = self._search.log_factor
        turn = self._search.advance(self._agreement)
        if turn.snapshot:
            self._snapshots.append(self._copied(rate))
        if turn.roll_back:
            found = [s for s in self._snapshots if s.log_rate <= self._search.log_factor]
            self._write((found or self._snapshots)[-1 if found else 0], optimizers=False)
            for optimizer in self._optimizers:
                restart_moments(optimizer)
            self._snapshots.clear()
        if turn.score:
            losses = [self._score(model, self._search.trial) for model in self._models]
            assert self._start is not None
            self._write(self._start, optimizers=True)
            turn = self._search.judge(losses)
        if turn.part:
            self._start = self._copied(rate)
        return turn

    def _copied(self, rate: float) -> _Copy:
        return _Copy(
            rate,
            [copy.deepcopy(m.state_dict()) for m in self._models],
            [copy.deepcopy(o.state_dict()) for o in self._optimizers],
        )

    def _write(self, saved: _Copy, *, optimizers: bool) -> None:
        for model, state in zip(self._models, saved.models, strict=True):
            model.load_state_dict(state)
        if optimizers:
            for optimizer, state in zip(self._optimizers, saved.optimizers, strict=True):
                optimizer.load_state_dict(copy.deepcopy(state))
