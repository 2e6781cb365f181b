"""The paper's controller: loss differences between replicas move the base rates.

N replicas are N points of a line search along the common update. A softmax turns their
losses into weights; the weighted mean of their values minus the plain mean says which way
the value should move (a zero-order hypergradient); a velocity smooths it. On top of that
the base value decays by a fixed factor per sync, as a schedule would.

This file is arithmetic on plain numbers: no tensors, no ranks, no communication. All ranks
feed it the same gathered numbers, in float64 and in one order of summation, so that all of
them get the same answer to the last bit.

Source: HDET (arXiv 2604.24708), equations (4) and (5). In symbols: sigma `loss_scale`,
lambda `lr_of_lr`, beta `momentum`, gamma `decay`, w `weights`, v `velocities`,
eta_r `rates[r]`, eta_bar `values`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BaseRates:
    """eta_bar and v of every parameter group, and the decision that they come from.

    Attributes:
        velocities: v per group.
        values: eta_bar per group; None while the schedule still sets them.
        acted_at: index of the sync at which the controller last acted.
        weights: w of every replica at that sync; 0 for a masked one.
        deltas: per group, the zero-order hypergradient; positive where larger rates did
            better.
        floored: per group, whether the equation gave no positive rate and the floor held.
    """

    velocities: list[float]
    values: list[float] | None = None
    acted_at: int = 0
    weights: list[float] | None = None
    deltas: list[float] | None = None
    floored: list[bool] | None = None

    def metrics(self) -> dict[str, Any]:
        """Return the velocities, and what the last decision was once there is one."""
        last = {"weights": self.weights, "delta": self.deltas, "floored": self.floored}
        known = {key: list(value) for key, value in last.items() if value is not None}
        return {"velocity": list(self.velocities), **known}

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "base_lrs": None if self.values is None else list(self.values),
            "velocities": list(self.velocities),
            "acted_at": self.acted_at,
        }


@dataclass(frozen=True)
class Controller:
    """Equation (4) with its constants.

    Attributes:
        loss_scale: sigma > 0, the loss difference that makes a weight e times larger.
        lr_of_lr: lambda >= 0, how far the velocity moves the base value.
        momentum: beta in [0, 1) of the velocity.
        decay: gamma in [0, 1), the share of the base value lost at each sync.
    """

    loss_scale: float
    lr_of_lr: float
    momentum: float
    decay: float

    def decide(
        self,
        velocities: Sequence[float],
        rates: Sequence[Sequence[float]],
        losses: Sequence[float],
        sync: int,
    ) -> BaseRates:
        """Return the next base rate and velocity of every parameter group.

        Args:
            velocities: v per group before this sync; 0 at the first.
            rates: eta_r per group and replica, of the interval that has ended.
            losses: L_r of every replica; NaN or infinite for one that is masked. It takes no
                part in the hypergradient, and its rate still counts in the mean that the
                base rate starts from: losing a replica is no evidence about its rate.
            sync: index of this sync.
        """
        weights = softmax_weights(losses, self.loss_scale)
        pairs = zip(velocities, rates, strict=True)
        moves = [self._move(velocity, row, weights) for velocity, row in pairs]
        values, velocities, deltas, floored = (list(c) for c in zip(*moves, strict=True))
        return BaseRates(velocities, values, sync, weights, deltas, floored)

    def _move(
        self, velocity: float, rates: Sequence[float], weights: Sequence[float]
    ) -> tuple[float, float, float, bool]:
        """Return eta_bar, v and delta of one group, and whether the floor held."""
        mean = math.fsum(rates) / len(rates)
        live = [rate for rate, w in zip(rates, weights, strict=True) if w > 0]
        delta = 0.0
        if live:
            weighted = math.fsum(w * x for w, x in zip(weights, rates, strict=True))
            delta = weighted - math.fsum(live) / len(live)
        velocity = self.momentum * velocity + (1 - self.momentum) * delta
        base = (1 - self.decay) * mean + self.lr_of_lr * velocity
        # With lambda alpha > 1 - gamma the equation can leave the positive numbers,
        # where a learning rate would ascend. The lowest rate tried is the way down.
        floored = base <= 0 < mean
        if floored:
            base = (1 - self.decay) * min(rates)
        return base, velocity, delta, floored


def softmax_weights(losses: Sequence[float], loss_scale: float) -> list[float]:
    """Return w = softmax((mean(L) - L_r) / sigma) over the replicas with a finite loss.

    Args:
        losses: L_r of every replica; NaN or infinite for one that is to be masked.
        loss_scale: sigma > 0.

    Returns:
        One weight per replica, adding up to 1; exactly 0 where masked, and a positive
        number elsewhere. All are 0 if no loss is finite.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return [0.0] * len(losses)
    # Subtracting the lowest loss in place of the mean cancels in the softmax and keeps
    # every exponent at or below 0. The floor keeps a live replica apart from a masked one.
    best = min(finite)
    terms = [
        max(math.exp((best - loss) / loss_scale), 1e-300) if math.isfinite(loss) else 0.0
        for loss in losses
    ]
    total = math.fsum(terms)
    return [term / total for term in terms]


def decay_per_sync(div_factor: float, final_div_factor: float, intervals: float) -> float:
    """Return gamma of equation (5): 1 - (f_div / f_final)^(1/K).

    With v = 0 the base value falls by f_div / f_final over the K intervals that remain
    after the warm-up. The public code takes the logarithm's sign the wrong way round, so
    that its learning rate grows; here gamma is never negative, also where
    `final_div_factor` is the smaller one: then there is no decay.

    Args:
        div_factor: OneCycle's initial divisor f_div > 0.
        final_div_factor: OneCycle's final divisor f_final > 0.
        intervals: K > 0, the (possibly fractional) number of intervals that remain.

    Returns:
        gamma in [0, 1).
    """
    return 1 - min(1.0, div_factor / final_div_factor) ** (1 / intervals)
