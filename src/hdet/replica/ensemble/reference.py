"""What the line-by-line references share: N data-parallel replicas in one process.

Slow and plain on purpose: the distributed code is tested against it.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .optimizer_state import weight_dependent_state


def own_gradients(models: Sequence[nn.Module], losses: Sequence[Tensor]) -> None:
    """Give every replica the gradient of its own loss."""
    for model, loss in zip(models, losses, strict=True):
        model.zero_grad()
        loss.backward()


def share_gradients(models: Sequence[nn.Module], losses: Sequence[Tensor]) -> None:
    """Give every replica the mean of all gradients, as DDP does."""
    own_gradients(models, losses)
    for copies in zip(*(m.parameters() for m in models), strict=True):
        gradients = [p.grad for p in copies if p.grad is not None]
        if gradients:
            mean = torch.stack(gradients).mean(0)
            for parameter in copies:
                parameter.grad = mean.clone()


@torch.no_grad()
def average(
    models: Sequence[nn.Module],
    optimizers: Sequence[Optimizer],
    left_out: Sequence[int] = (),
    follow: Callable[[Optimizer], list[Tensor]] = weight_dependent_state,
) -> None:
    """Replace every tensor that differs between replicas by its mean.

    Args:
        models: the replicas' models.
        optimizers: their optimizers.
        left_out: replicas that receive the mean and give nothing.
        follow: which optimizer state differs.
    """
    everything = [
        [*m.parameters(), *m.buffers(), *follow(o)]
        for m, o in zip(models, optimizers, strict=True)
    ]
    for copies in zip(*everything, strict=True):
        if copies[0].is_floating_point():
            kept = [c.detach() for r, c in enumerate(copies) if r not in left_out]
            mean = torch.stack(kept).mean(0)
            for tensor in copies:
                tensor.copy_(mean)


def mean_losses(interval: Sequence[Sequence[float]]) -> list[float]:
    """Return L_r of every replica from its losses at the steps of an interval."""
    return [math.fsum(column) / len(interval) for column in zip(*interval, strict=True)]
