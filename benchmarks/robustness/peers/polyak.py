"""ScheduleFree+: AdamC, Schedule-Free and a Polyak step size in one.

With f the loss and g its gradient at y, k the step from 0, b the interpolation that goes from
`momentum[0]` to `momentum[1]` evenly in log(1 - b), and sums over all weights:

    a = lr * max(0, f + b <g, z - x>) / (sqrt(pi / 2) * |g|_1)
    z = z - a^2 * weight_decay * y - a * m / (sqrt(v) + eps)
    x = x + c (z - x),  c = 1 for the first steps, then w / sum(w) with w = max(a)^2
    y = b x + (1 - b) z

m and v are Adam's moments, corrected for their start. The Polyak step supposes that the least
loss is 0. Source: Defazio, arXiv 2605.19095, as the reference beside schedulefree has it (of
its options, only those at their defaults are here: `r` 0, `polyak_beta` 0).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class ScheduleFreePlus(Optimizer):
    """The optimizer; call `train` before training and `eval` before evaluating."""

    def __init__(
        self,
        params: Any,
        *,
        anneal_steps: int,
        hold_steps: int,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
        momentum: tuple[float, float] = (0.9, 0.965),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        """Take the weights as x, y and z.

        Args:
            params: parameters or groups of them.
            anneal_steps: over how many steps `momentum` goes from its first to its last.
            hold_steps: for how many steps x is z, before the average begins.
            lr: a multiplier of the Polyak step size.
            betas: of Adam's moments.
            momentum: first and last weight of x in y.
            weight_decay: multiplied by the square of the step size.
            eps: of Adam, and the least that the greatest step size counts as.
        """
        own = {"scheduled_lr": 0.0, "greatest_lr": eps, "weight_sum": 0.0}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **own})
        self._betas, self._momentum, self._eps = betas, momentum, eps
        self._anneal_steps, self._hold_steps = anneal_steps, hold_steps
        self._steps = 0
        for group in self.param_groups:
            for y in group["params"]:
                state = self.state[y]
                state["x"], state["z"] = y.detach().clone(), y.detach().clone()
                state["m"], state["v"] = torch.zeros_like(y), torch.zeros_like(y)
        self._training = True

    def train(self) -> None:
        """Put the weights at y."""
        if not self._training:
            self._place(self._interpolation(self._steps - 1))
            self._training = True

    def eval(self) -> None:
        """Put the weights at x, the average."""
        if self._training:
            self._place(1.0)
            self._training = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float]) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step with the gradients that there are, or that `closure` computes.

        Args:
            closure: returns the loss at the weights as they are.

        Raises:
            RuntimeError: in evaluation mode.
        """
        if not self._training:
            raise RuntimeError(
                "ScheduleFreePlus.step() needs the weights at y: call train() first."
            )
        with torch.enable_grad():
            loss = closure()
        b = self._interpolation(self._steps)
        size = self._polyak(loss, b)
        for group in self.param_groups:
            a = group["scheduled_lr"] = max(group["lr"], self._eps) * size
            c = self._averaging(group, a)
            for y in group["params"]:
                if y.grad is None:
                    continue
                state = self.state[y]
                state["z"].sub_(y, alpha=a * a * group["weight_decay"])
                state["z"].sub_(self._direction(state, y.grad), alpha=a)
                state["x"].lerp_(state["z"], c)
        self._place(b)
        self._steps += 1
        return loss

    def _polyak(self, loss: float, b: float) -> float:
        pairs = [(y.grad, self.state[y]) for g in self.param_groups for y in g["params"]]
        found = [(grad, state) for grad, state in pairs if grad is not None]
        inner = sum(float((grad * (s["z"] - s["x"])).sum()) for grad, s in found)
        norm = sum(float(grad.abs().sum()) for grad, _ in found)
        # With a gradient of zeros there is no step to take, whatever its size.
        return max(0.0, loss + b * inner) / (math.sqrt(math.pi / 2) * norm) if norm else 0.0

    def _direction(self, state: dict, grad: torch.Tensor) -> torch.Tensor:
        first, second = self._betas
        state["m"].lerp_(grad, 1 - first)
        state["v"].mul_(second).addcmul_(grad, grad, value=1 - second)
        k = self._steps + 1
        root = (state["v"] / (1 - second**k)).sqrt_().add_(self._eps)
        return state["m"] / (1 - first**k) / root

    def _averaging(self, group: dict, a: float) -> float:
        group["greatest_lr"] = max(group["greatest_lr"], a)
        if self._steps < self._hold_steps:
            return 1.0
        weight = group["greatest_lr"] ** 2
        group["weight_sum"] += weight
        return weight / group["weight_sum"]

    def _interpolation(self, step: int) -> float:
        part = min(max(step, 0) / self._anneal_steps, 1.0)
        first, last = self._momentum
        return 1 - (1 - first) ** (1 - part) * (1 - last) ** part

    @torch.no_grad()
    def _place(self, b: float) -> None:
        for group in self.param_groups:
            for y in group["params"]:
                y.copy_(torch.lerp(self.state[y]["z"], self.state[y]["x"], b))
