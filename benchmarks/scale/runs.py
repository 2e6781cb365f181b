"""One run of the scale benchmark: N replicas on one small problem, in one process.

The problem is the `regression` task with a student of two matrices. Whatever N, a step has one
global batch, dealt out to the replicas in equal shares. `run` is all that the study needs; in
held runs `Readings` looks on at each sync.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

import hdet
from hdet import SearchConfig
from hdet.replica.explorer.attribution import slopes, without_outliers
from hdet.replica.explorer.decision import Decision
from hdet.replica.explorer.reference import train
from hdet.seeding import generator

from ..robustness.problems import held_out_loss
from ..tasks import get_task

TASK, INPUTS, HIDDEN, OUTPUTS = "regression", 16, 32, 1
BATCH = 512  # of all replicas together, and of the probe
STEPS, SYNC_EVERY = 162, 3
PHASE = (0.15, 0.7)  # of the run: after its first steps, before the schedule has decayed
PROBE_SEED = 10_000
SIGNALS = [
    "probe at averaged weights",  # what Explorer holds a rate by
    "probe at own weights",  # what it climbs by
    "own batches",  # what it has without a probe
    "one example each",  # the same, with as much noise in a replica's loss for every N
]
# Nothing moves the rate or the weights once the search is over.
STILL = replace(
    SearchConfig(), track_step=0.0, divergence_threshold=math.inf, spike_threshold=math.inf
)
task = get_task(TASK)
task.batch_size = BATCH


class Net(nn.Module):
    """Two matrices: every further tensor would cost time in 512 replicas."""

    def __init__(self, draw: torch.Generator) -> None:
        super().__init__()
        self.first = nn.Parameter(
            torch.randn(INPUTS, HIDDEN, generator=draw) * (3 * INPUTS) ** -0.5
        )
        self.second = nn.Parameter(torch.randn(HIDDEN, OUTPUTS, generator=draw) * HIDDEN**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.first) @ self.second


@lru_cache(maxsize=2 * STEPS)
def batch(seed: int, step: int) -> tuple[Tensor, ...]:
    """Return the batch of all replicas at a step, or of the probe at a sync."""
    return task.batch(seed, step, 0, 1)


class Readings:
    """The t-statistics of one held run, taken whenever Explorer reads its own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.models: dict[int, nn.Module] = {}
        self.own: list[list[float]] = []
        self.single: list[list[float]] = []
        # Of the syncs in the phase; distances are the replicas' from their mean, in its norm.
        self.t: dict[str, list[float]] = {name: [] for name in SIGNALS}
        self.distance: list[float] = []
        # Replicas left out of an average, over the whole run.
        self.left_out = 0

    @torch.no_grad()
    def see(self, model: nn.Module, rank: int, part: tuple[Tensor, ...], loss: Tensor) -> None:
        """Keep what a replica's loss was at a step, on its batch and on one example of it."""
        if rank == 0:
            self.own.append([])
            self.single.append([])
        self.models[rank] = model
        self.own[-1].append(float(loss))
        one = tuple(column[:1] for column in part)
        alone = len(part[0]) == 1
        self.single[-1].append(float(loss if alone else task.loss(model, one)))

    @torch.no_grad()
    def take(self, sync: int, losses: Sequence[float], decision: Decision) -> None:
        """Read all signals at a sync, where the replicas still have weights of their own."""
        own, single = _means(self.own), _means(self.single)
        self.own, self.single = [], []
        self.left_out += len(decision.excluded)
        if not PHASE[0] <= sync * SYNC_EVERY / STEPS < PHASE[1]:
            return
        probed = batch(PROBE_SEED + self.seed, sync)
        models = [self.models[rank] for rank in range(len(losses))]
        here = [float(task.loss(model, probed)) for model in models]
        for name, values in zip(SIGNALS, [losses, here, own, single], strict=True):
            found = slopes(without_outliers(values), decision.offsets)
            self.t[name].append(found.t[0])
        weights = torch.stack([nn.utils.parameters_to_vector(m.parameters()) for m in models])
        middle = weights.mean(0)
        spread = (weights - middle).square().sum(1).mean().sqrt() / middle.norm()
        self.distance.append(float(spread))


def _means(rows: list[list[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def run(kind: str, replicas: int, spread: float, rate: float, seed: int) -> dict:
    """Train once; return the held-out loss and what else the kind of run is for.

    Args:
        kind: "plain", "held", "explorer", or "unprobed", which is Explorer without a probe
            but with the search that it does by default only with one.
        replicas: N.
        spread: of the learning rates.
        rate: peak of the one-cycle schedule.
        seed: of weights, batches and permutations.
    """
    share = BATCH // replicas
    held, free = kind == "held", kind in {"explorer", "unprobed"}
    readings = Readings(seed)
    decisions: list[Decision] = []

    def loss(model: nn.Module, step: int, rank: int) -> Tensor:
        part = tuple(c[rank * share : (rank + 1) * share] for c in batch(seed, step))
        value = task.loss(model, part)
        if held:
            readings.see(model, rank, part, value)
        return value

    def probe(model: nn.Module, sync: int) -> Tensor:
        return task.loss(model, batch(PROBE_SEED + seed, sync))

    @torch.no_grad()
    def take(sync: int, losses: list[float], decision: Decision) -> None:
        decisions.append(decision)
        if held:
            readings.take(sync, losses, decision)

    trace = train(
        Net(generator(seed, "scale model")),
        lambda model: torch.optim.AdamW(model.parameters(), rate, fused=True),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=STEPS, cycle_momentum=False
        ),
        loss,
        probe if kind in {"held", "explorer"} else None,
        explore=lambda _: [] if kind == "plain" else [hdet.lr(spread=spread)],
        replicas=replicas,
        total_steps=STEPS,
        T=SYNC_EVERY,
        seed=seed,
        search=free,
        config=None if free else STILL,
        on_sync=take,
    )
    result = {"held_out": held_out_loss(task, trace.models[0])}
    if held:
        result["distance"] = statistics.fmean(readings.distance)
        result |= {"t": readings.t, "left out": readings.left_out}
    elif free:
        searching = STEPS // SYNC_EVERY - len(decisions)
        result |= {"rate": rate * trace.values[-1][0], "climbing": searching}
        result["cliffs"] = sum(bool(decision.excluded) for decision in decisions)
    return result | {"explosions": trace.rollbacks}
