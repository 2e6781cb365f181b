"""The paper's algorithm, line by line, for N replicas in one process.

Slow and plain on purpose: it is what the distributed code is tested against, what the
documentation shows, and a way to try HDET without several processes. Each numbered line is
that equation of HDET (arXiv 2604.24708); the schedule comes from torch's own OneCycleLR.

It leaves out what a run needs and the algorithm does not: masks, checkpoints, groups of
shards. Losses and weights are finite here, or the numbers are what they become.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from ..ensemble.permutation import permutation
from ..ensemble.reference import average, mean_losses, share_gradients


@dataclass
class Trace:
    """What happened, indexed by step (from 0), then group, then replica.

    Attributes:
        losses: `[step][replica]`, each on the replica's own batch.
        rates: `[step][group][replica]`, eta_r in effect at that step.
        weights: softmax weights of the replicas, one list per act of the controller.
        bases: eta_bar per group, one list per act.
        models: the N models as they are after the last step.
    """

    losses: list[list[float]] = field(default_factory=list)
    rates: list[list[list[float]]] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    bases: list[list[float]] = field(default_factory=list)
    models: list[nn.Module] = field(default_factory=list)


def train(
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    loss: Callable[[nn.Module, int, int], Tensor],
    *,
    replicas: int,
    total_steps: int,
    max_lr: float | list[float],
    alpha: float,
    T: int,
    S_warm: int = 0,
    auto_lr: bool = False,
    sigma: float = 0.002,
    lam: float = 0.5,
    beta: float = 0.9,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    cycle_momentum: bool = True,
    seed: int = 0,
) -> Trace:
    """Train `replicas` copies of `model` by HDET in this process.

    Args:
        model: the common start; not changed.
        make_optimizer: makes a replica's optimizer.
        loss: loss(model, step, replica) -> this replica's mean loss, with a graph.
        replicas: N.
        total_steps: S, all of which are run.
        max_lr: the peak base rate, one or one per group.
        alpha: spread ratio.
        T: optimizer steps between syncs.
        S_warm: steps before the controller acts.
        auto_lr: whether it acts at all.
        sigma: loss scale.
        lam: lambda, LR of the LR.
        beta: momentum of the LR.
        div_factor: as in OneCycleLR.
        final_div_factor: as in OneCycleLR.
        cycle_momentum: as in OneCycleLR.
        seed: of the permutations.

    Returns:
        The trace.
    """
    models = [copy.deepcopy(model) for _ in range(replicas)]
    optimizers = [make_optimizer(m) for m in models]
    groups = len(optimizers[0].param_groups)
    schedule = _schedule(
        make_optimizer(copy.deepcopy(model)),
        max_lr=max_lr,
        total_steps=total_steps,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=cycle_momentum,
    )
    delta = max((replicas - 1) / 2, 0.5)
    rho = [1 + alpha * (r - (replicas - 1) / 2) / delta for r in range(replicas)]  # (1)
    ratio = min(1.0, div_factor / final_div_factor)
    gamma = 1 - ratio ** (T / (total_steps - S_warm)) if auto_lr else 0.0  # (5)
    v = [0.0] * groups
    eta_bar: list[float] | None = None
    pi = [list(range(replicas)) for _ in range(groups)]
    trace = Trace(models=models)
    interval: list[list[float]] = []

    for t in range(total_steps):
        once = schedule[t]
        base = eta_bar or [group["lr"] for group in once]
        eta = [[base[g] * rho[pi[g][r]] for r in range(replicas)] for g in range(groups)]
        for r, optimizer in enumerate(optimizers):
            for g, group in enumerate(optimizer.param_groups):
                group.update(once[g] | {"lr": eta[g][r]})

        losses = [loss(m, t, r) for r, m in enumerate(models)]
        share_gradients(models, losses)
        for optimizer in optimizers:
            optimizer.step()  # (2)
        trace.losses.append([x.item() for x in losses])
        trace.rates.append(eta)
        interval.append(trace.losses[-1])

        if (t + 1) % T or alpha == 0 or replicas == 1:
            continue
        average(models, optimizers)  # (3)
        L = mean_losses(interval)
        interval = []
        if not auto_lr or t + 1 < S_warm:
            continue
        s = [(sum(L) / replicas - L[r]) / sigma for r in range(replicas)]
        top = max(s)
        w = [math.exp(x - top) / sum(math.exp(y - top) for y in s) for x in s]
        eta_bar = []
        for g in range(groups):
            mean = sum(eta[g]) / replicas
            Delta = sum(w[r] * eta[g][r] for r in range(replicas)) - mean
            v[g] = beta * v[g] + (1 - beta) * Delta
            base = (1 - gamma) * mean + lam * v[g]  # (4)
            # Ours: the equation may leave the positive numbers; see the controller.
            eta_bar.append(base if base > 0 else (1 - gamma) * min(eta[g]))
            pi[g] = permutation(replicas, seed, (t + 1) // T, f"lr {g}")
        trace.weights.append(w)
        trace.bases.append(list(eta_bar))
    return trace


def _schedule(optimizer: Optimizer, total_steps: int, **settings) -> list[list[dict]]:
    """Return what OneCycleLR sets in each group, for every step."""
    scheduler = OneCycleLR(optimizer, total_steps=total_steps, **settings)
    keys = ("lr", "momentum", "betas")
    steps = []
    for _ in range(total_steps):
        steps.append([{k: g[k] for k in keys if k in g} for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return steps
