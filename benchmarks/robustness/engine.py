"""Many runs of one problem as one batch of models: the fast tier.

Rows are runs (rates or starts, times seeds), and each row may have several replicas that share
the mean gradient and with it the optimizer's moments, as under DDP, but take it at rates of
their own. All weights are one tensor [rows, replicas, parameters]; gradients come from one
`vmap` over `functional_call` of the task's own model, and AdamW and SGD are written for rows.
A test shows a plain row equal to a real run.

A rule of the learning rate sees what a method on real ranks would see, see `Rule`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from ..tasks import Batch, Task
from .loop import reading_steps
from .problems import (
    MOMENTUM,
    WEIGHT_DECAY,
    Outcome,
    Problem,
    global_batch,
    new_model,
    parameter_groups,
    shares,
)

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's defaults
OPTIMIZERS = ("adamw", "sgd")
# Convolutions of a batch of models are grouped ones, and ten times slower on a CPU than apart.
APART = ("fashion-whole",)


@dataclass(frozen=True)
class Row:
    """One run: where it starts, and on which batches."""

    rate: float  # the peak rate
    seed: int  # of the initial weights
    data_seed: int  # of the batches


def fits(problem: Problem) -> bool:
    """Return whether many runs of a problem are done faster, or at all, as one batch."""
    return problem.optimizer in OPTIMIZERS and problem.task not in APART


class Rule(Protocol):
    """What sets the learning rate of every row and replica."""

    def begin(self, state: "State", peaks: Tensor) -> None:
        """Take the state, to read or restore it later, and each row's peak rate, (rows,)."""

    def rates(
        self, t: int, share: float, grads: Tensor, updates: Tensor, losses: Tensor
    ) -> Tensor:
        """Return the rates of the coming update.

        Args:
            t: the step, from 0.
            share: the schedule's, of its peak.
            grads: the shared gradient at the current weights, (rows, parameters).
            updates: the optimizer's last update per unit of rate, without weight decay,
                (rows, parameters); zero at first.
            losses: of the replicas' batches at the current weights, (rows, replicas).

        Returns:
            Rates, (rows, replicas), or (rows, replicas, parameters).
        """
        ...


class Plain:
    """The schedule as it is."""

    def begin(self, state: "State", peaks: Tensor) -> None:
        """Keep the peaks."""
        self._peaks = peaks[:, None].expand(-1, state.weights.shape[1])

    def rates(
        self, t: int, share: float, grads: Tensor, updates: Tensor, losses: Tensor
    ) -> Tensor:
        """Return the peaks' share."""
        return share * self._peaks


class State:
    """Weights and moments of all rows.

    Attributes:
        weights: (rows, replicas, parameters).
        first: the first moment, or SGD's momentum, (rows, parameters).
        second: the second moment, (rows, parameters); unused by SGD.
        counts: steps since the first and the second moment were cleared, (rows, 2).
        updates: the last update per unit of rate, (rows, parameters).
    """

    def __init__(self, weights: Tensor, optimizer: str, decay: Tensor) -> None:
        """Begin at weights (rows, replicas, parameters), with the decay of each parameter."""
        self.weights, self._adamw, self._decay = weights, optimizer == "adamw", decay
        flat = weights[:, 0]
        self.first, self.second = torch.zeros_like(flat), torch.zeros_like(flat)
        self.updates = torch.zeros_like(flat)
        self.counts = torch.zeros_like(flat[:, :2])
        self._restores: list[tuple[Tensor, list[Tensor]]] = []

    def snapshot(self) -> list[Tensor]:
        """Return a copy of all rows' weights (the mean over replicas) and moments."""
        return [
            self.weights.mean(1, keepdim=True),
            *(held.clone() for held in (self.first, self.second, self.counts)),
        ]

    def restore(self, rows: Tensor, snapshot: list[Tensor], fresh: bool = False) -> None:
        """Bring rows back to a snapshot once the update that is under way is taken.

        So the update of the step at which a rule asks for it is lost.

        Args:
            rows: a mask, (rows,).
            snapshot: what `snapshot` returned.
            fresh: clear the moments, in place of bringing those of the snapshot back.
        """
        weights, *held = snapshot
        held = [torch.zeros_like(then) if fresh else then for then in held]
        self._restores.append((rows, [weights, *held]))

    def clear(self, rows: Tensor, first: bool = True) -> None:
        """Clear the moments of rows (a mask); the first one only with `first`."""
        for moment, held in enumerate((self.first, self.second)):
            if moment or first:
                held[rows] = 0
                self.counts[rows, moment] = 0

    def average(self) -> None:
        """Set all replicas to their mean."""
        self.weights = self.weights.mean(1, keepdim=True).expand_as(self.weights).clone()

    def step(self, grads: Tensor, rates: Tensor) -> None:
        """Take one step of the optimizer on the shared gradient."""
        self.counts += 1
        if self._adamw:
            self.first.lerp_(grads, 1 - BETAS[0])
            self.second.mul_(BETAS[1]).addcmul_(grads, grads, value=1 - BETAS[1])
            missing = 1 - self.counts.new_tensor(BETAS) ** self.counts
            first, second = self.first / missing[:, :1], self.second / missing[:, 1:]
            self.updates = first.div_(second.sqrt_().add_(EPS)).neg_()
        else:
            self.first.mul_(MOMENTUM).add_(grads)
            self.updates = -self.first
        rates = rates if rates.ndim == 3 else rates[..., None]
        if self._adamw:
            self.weights.mul_(1 - rates * self._decay)
        self.weights.add_(rates * self.updates[:, None])
        for rows, (weights, *held) in self._restores:
            self.weights[rows] = weights[rows].expand_as(self.weights[rows])
            for now, then in zip((self.first, self.second, self.counts), held, strict=True):
                now[rows] = then[rows]
        self._restores.clear()


class Engine:
    """A problem's model and losses for stacked weights."""

    def __init__(
        self,
        problem: Problem,
        task: Task,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Take a problem with its loaded task; `dtype` is for tests."""
        if problem.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"{problem.name} has the optimizer {problem.optimizer!r}, and the engine has "
                f"{' and '.join(OPTIMIZERS)}: run it by itself."
            )
        self.problem, self.task, self.device = problem, task, torch.device(device)
        self._dtype = dtype or torch.get_default_dtype()
        self._model = self._new(0)
        # What is not trained stays in the model, one copy for all rows.
        self._shapes = {
            n: p.shape for n, p in self._model.named_parameters() if p.requires_grad
        }
        self._held_out = [self._moved(batch) for batch in task.held_out()]

    def initial(self, seed: int) -> Tensor:
        """Return the initial weights that are trained, flat."""
        return _flat(self._new(seed))

    def losses(self, weights: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each model of (models, parameters) on a batch of its own."""
        return vmap(self._loss)(weights, *batch)

    def gradients(self, weights: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the gradient and the loss of each model on a batch of its own."""
        return vmap(grad_and_value(self._loss))(weights, *batch)

    @torch.no_grad()
    def held_out(self, weights: Tensor) -> list[float]:
        """Return the held-out loss of each model."""
        every = []
        for batch in self._held_out:
            dims = (0, *[None] * len(batch))
            every.append(vmap(self._loss, in_dims=dims, chunk_size=8)(weights, *batch))
        return torch.stack(every).mean(0).tolist()

    def decay(self) -> Tensor:
        """Return the weight decay of each parameter, flat."""
        found = {}
        for group in parameter_groups(self.problem, self.task, self._model):
            value = group.get("weight_decay", WEIGHT_DECAY)
            found |= {id(p): torch.full_like(p, value).flatten() for p in group["params"]}
        trained = [p for p in self._model.parameters() if p.requires_grad]
        return torch.cat([found[id(p)] for p in trained]).detach()

    def batch(self, rows: Sequence[Row], step: int, replicas: int) -> Batch:
        """Return each row's batches of a step: columns (rows * replicas, examples, ...)."""
        drawn: dict[int, list[Batch]] = {}
        for seed in {row.data_seed for row in rows}:
            whole = global_batch(self.task, seed, step)
            drawn[seed] = list(zip(*(c.chunk(replicas) for c in whole), strict=True))
        models = [batch for row in rows for batch in drawn[row.data_seed]]
        return self._moved(tuple(torch.stack(c) for c in zip(*models, strict=True)))

    def _new(self, seed: int) -> nn.Module:
        return new_model(self.task, seed).to(self.device, self._dtype)

    def _moved(self, batch: Batch) -> Batch:
        return tuple(
            c.to(self.device, self._dtype if c.is_floating_point() else None) for c in batch
        )

    def _loss(self, flat: Tensor, *batch: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), parts, strict=True)
        weights = {name: part.view(shape) for (name, shape), part in named}

        def filled(*inputs: Tensor) -> Tensor:
            return functional_call(self._model, weights, inputs)

        # A loss does no more with a model than call it.
        return self.task.loss(cast(nn.Module, filled), batch)


def run(
    engine: Engine, rows: Sequence[Row], rule: Rule | None = None, replicas: int = 1
) -> list[Outcome]:
    """Train all rows of a problem at once.

    Args:
        engine: the problem's.
        rows: the runs.
        rule: of the learning rate; None for the plain schedule.
        replicas: of each row, a divisor of a step's examples.

    Returns:
        How each went; the seconds are a row's share. The held-out loss is that of the mean
        over replicas.
    """
    began, rule = time.perf_counter(), rule or Plain()
    starts = {seed: engine.initial(seed) for seed in {row.seed for row in rows}}
    weights = torch.stack([starts[row.seed] for row in rows])
    state = State(
        weights[:, None].repeat(1, replicas, 1), engine.problem.optimizer, engine.decay()
    )
    peaks = torch.tensor([row.rate for row in rows], device=weights.device, dtype=weights.dtype)
    rule.begin(state, peaks)
    initial, due = engine.held_out(weights), reading_steps(engine.problem.steps)
    rates_read: list[list[float]] = []
    curves: list[list[float]] = []
    for t, share in enumerate(shares(engine.problem)):
        batch = engine.batch(rows, t, replicas)
        grads, losses = engine.gradients(state.weights.flatten(0, 1), batch)
        grads = grads.unflatten(0, (len(rows), replicas)).mean(1)
        losses = losses.unflatten(0, (len(rows), replicas))
        rates = rule.rates(t, share, grads, state.updates, losses)
        state.step(grads, rates)
        if t + 1 in due:
            rates_read.append(rates.flatten(1).mean(1).tolist())
            curves.append(engine.held_out(state.weights.mean(1)))
    seconds = (time.perf_counter() - began) / len(rows)
    found = []
    for at_first, losses, lrs in zip(initial, zip(*curves), zip(*rates_read), strict=True):  # noqa: B905
        curve = list(zip(due, losses, strict=True))
        found.append(Outcome(losses[-1], due, list(lrs), seconds, at_first, curve))
    return found


def _flat(model: nn.Module) -> Tensor:
    trained = [p.detach().flatten() for p in model.parameters() if p.requires_grad]
    return torch.cat(trained)
