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
from .config import SearchConfig
from .deferral import Deferral
from .rate_search import RateSearch, Turn


class _Copy(NamedTuple):
    log_rate: float
    models: list[dict[str, Any]]
    optimizers: list[dict[str, Any]]


class Updates:
    """How far the mean update of all models and the gradient after it agree.

    Attributes:
        newest: -sum(g w), sum|g w| of the newest step.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = models
        self._previous: list[list[Tensor]] | None = None
        self.newest = [0.0] * 2

    @torch.no_grad()
    def look(self) -> None:
        """Take in the gradients; the weights have not moved yet."""
        weights = [[p for p in m.parameters() if p.grad is not None] for m in self._models]
        rows = []
        for own, old in zip(weights, self._previous or [], strict=False):
            moved = [
                (p.grad.double(), p.double() - before.double())
                for p, before in zip(own, old, strict=True)
                if p.grad is not None
            ]
            rows.append(
                [
                    -math.fsum(float((g * w).sum()) for g, w in moved),
                    math.fsum(float((g * w).abs().sum()) for g, w in moved),
                ]
            )
        self.newest = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        self.newest = self.newest or [0.0] * 2
        self._previous = [[p.detach().clone() for p in row] for row in weights]


class OldUpdates:
    """How far a displacement of the weights and later gradients agree, by `Deferral`'s beat.

    Args:
        model: any replica: at syncs their weights are equal, and gradients always are.
        config: the constants.
    """

    def __init__(self, model: nn.Module, config: SearchConfig) -> None:
        self._model = model
        self._beat = Deferral(config.evidence_steps, config.evidence_delay)
        self.forget()

    def forget(self) -> None:
        """Begin anew at the next sync."""
        self._beat.begin("none", 0)
        self._start: list[Tensor] = []
        self._moved: list[Tensor] = []
        self._scored: list[list[float]] = []

    @torch.no_grad()
    def look(self) -> None:
        """Take in the gradients of a step."""
        if self._beat.phase != "scoring":
            return
        pairs = [
            (p.grad.double(), u.double())
            for p, u in zip(self._model.parameters(), self._moved, strict=True)
            if p.grad is not None
        ]
        self._scored.append(
            [
                -math.fsum(float((g * u).sum()) for g, u in pairs),
                math.fsum(float(g.square().sum()) for g, _ in pairs),
                math.fsum(float(u.square().sum()) for _, u in pairs),
            ]
        )

    @torch.no_grad()
    def advance(self, step: int) -> float | None:
        """Go on after a step at which all weights are equal; return the cosine of a score."""
        phase, cosine = self._beat.due(step), None
        if phase is None:
            return None
        if self._beat.phase == "scoring":
            signed, gradients, moves = map(math.fsum, zip(*self._scored, strict=True))
            size = math.sqrt(gradients) * math.sqrt(moves)
            cosine = signed / size if size else None
        now = [p.detach().clone() for p in self._model.parameters()]
        if phase == "moving":
            self._start = now
        if phase == "waiting":
            self._moved = [b - a for a, b in zip(self._start, now, strict=True)]
        self._scored = []
        self._beat.begin(phase, step)
        return cosine


class ReferenceSearch:
    """Does to `models` and `optimizers` what the search asks for.

    Args:
        search: where it stands; `shifts` of it are the replicas' rates.
        models: the replicas.
        optimizers: theirs.
        score: score(trial) -> the loss of each on the batches that all score.
        config: the constants.
    """

    def __init__(
        self,
        search: RateSearch,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        score: Callable[[int], list[float]],
        config: SearchConfig,
    ) -> None:
        self._search = search
        self._models = models
        self._optimizers = optimizers
        self._score = score
        self._updates = Updates(models)
        self._capacity = config.snapshots
        self._snapshots: list[_Copy] = []
        self._calls, self._stride = 0, 1
        self._start: _Copy | None = None  # of a trial
        self._agreement: float | None = None

    @property
    def apart(self) -> bool:
        """Whether the step that comes is on each replica's own gradient."""
        return self._search.phase == "trial"

    def before_step(self) -> None:
        """Compare the gradients with the last update; the weights have not moved yet."""
        self._updates.look()
        sums = self._updates.newest
        self._agreement = sums[0] / sums[1] if sums[1] else None
        if self.apart and self._search.steps == 0:
            self._search.compare_gradients(*_squares(self._models))

    def after_step(self, decaying: bool) -> Turn:
        """Take in the step, and do what the search asks for; `decaying` is of the schedule."""
        rate = self._search.log_factor
        turn = self._search.advance(self._agreement)
        if turn.snapshot:
            self._keep(rate)
        if turn.roll_back:
            found = [s for s in self._snapshots if s.log_rate <= self._search.log_factor]
            self._write((found or self._snapshots)[-1 if found else 0], optimizers=False)
            for optimizer in self._optimizers:
                restart_moments(optimizer)
            self._snapshots.clear()
        if turn.score:
            losses = self._score(self._search.trial)
            assert self._start is not None
            self._write(self._start, optimizers=True)
            turn = self._search.judge(losses)
        if turn.part and self._search.first_trial:
            losses = self._score(0)
            self._search.before_trials(math.fsum(losses) / len(losses))
        if turn.part:
            self._start = self._copied(rate)
        if self._search.phase == "warmup":
            self._search.decaying = decaying
        if turn.found:
            for optimizer in self._optimizers:
                restart_moments(optimizer)
        return turn

    def _keep(self, rate: float) -> None:
        """Take a snapshot; where there are too many drop every second, here and later."""
        if self._calls % self._stride == 0:
            self._snapshots.append(self._copied(rate))
        self._calls += 1
        if len(self._snapshots) > self._capacity:
            self._snapshots = self._snapshots[::2]
            self._stride *= 2

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


def _squares(models: Sequence[nn.Module]) -> tuple[float, float]:
    """Return the mean squared norm of the models' gradients, and that of their mean."""
    own = shared = 0.0
    for row in zip(*(m.parameters() for m in models), strict=True):
        gradients = [p.grad for p in row if p.grad is not None]
        if gradients:
            own += math.fsum(float(g.square().sum()) for g in gradients) / len(models)
            shared += float(torch.stack(gradients).mean(0).square().sum())
    return own, shared
