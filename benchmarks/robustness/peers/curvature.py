"""CDAT: keep the step at the edge of stability.

With u the optimizer's update for a rate of 1, g the gradient and H the Hessian of the batch's
loss, the rate is

    sigma * n / d,  n = EMA of max(-<g, u>, 0),  d = EMA of |<u, H u>| + eps

At sigma 1 the step minimises the quadratic model, which is greedy and loses; at 2 it ends where
that model is level with its start. Source: Roulet et al., "Stepping on the Edge", arXiv
2407.06183; it has no package. Sigma 2 is its choice for full batches; on small ones, it says,
the right one depends on the batch. Guesses are the weight of the averages (of 0, 0.9 and 0.99,
the best at sigma 2 on regression and teacher; at 0 it diverges), an eps of 1e-12, and no
schedule beside it. It asks for no learning rate.

Each step costs nine more forward passes: one, two for its gradient, and six for a backward pass
through both, if a backward pass costs two forward ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...tasks import Batch, Task
from ..loop import train
from ..problems import Outcome, Problem
from .training import begin, with_linear_steps

SIGMA, AVERAGE, EPS = 2.0, 0.99, 1e-12
PASSES = 9


def curvature(task: Task, model: nn.Module, batch: Batch, along: Sequence[Tensor]) -> float:
    """Return <u, H u> of the batch's loss at the weights as they are.

    Args:
        task: gives the loss.
        model: where it is.
        batch: of which loss.
        along: u, a tensor for each of the weights that require gradients.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    # The fused attention kernels have no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        loss = task.loss(model, batch)
        grads = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        slope = torch.stack([(g * u).sum() for g, u in zip(grads, along, strict=True)]).sum()
        products = torch.autograd.grad(slope, weights, materialize_grads=True)
    return sum(float((h * u).sum()) for h, u in zip(products, along, strict=True))


class CdatRule:
    """The rate from the slope and the curvature along the update."""

    def __init__(self) -> None:
        """Begin with empty averages; what they lack at first cancels in their ratio."""
        self._n = self._d = 0.0

    def rate(self, slope: float, curved: float) -> float:
        """Return the rate for the next step.

        Args:
            slope: <g, u>; positive where the update does not descend.
            curved: <u, H u>.
        """
        self._n = AVERAGE * self._n + (1 - AVERAGE) * max(-slope, 0.0)
        self._d = AVERAGE * self._d + (1 - AVERAGE) * (abs(curved) + EPS)
        return SIGMA * self._n / self._d


def cdat(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with the problem's optimizer at the rate of `CdatRule`; `lr` is not used.

    The update for a rate of 1 is what the optimizer does at that rate, weight decay included.
    Schedule-Free's is not proportional to its rate: there it has AdamW.
    """
    del lr
    problem = with_linear_steps(problem)
    model, optimizer = begin(problem, task, 1.0, seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    rule = CdatRule()

    def step(_loss: Tensor, batch: Batch) -> None:
        before = [p.detach().clone() for p in weights]
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        optimizer.step()
        with torch.no_grad():
            update = [p - old for p, old in zip(weights, before, strict=True)]
            pairs = [(p.grad, u) for p, u in zip(weights, update, strict=True)]
            slope = sum(float((g * u).sum()) for g, u in pairs if g is not None)
            for p, old in zip(weights, before, strict=True):
                p.copy_(old)
        rate = rule.rate(slope, curvature(task, model, batch, update))
        with torch.no_grad():
            for p, u in zip(weights, update, strict=True):
                p.add_(u, alpha=rate)
        for group in optimizer.param_groups:
            group["lr"] = rate

    extra = float(PASSES * problem.steps)
    return train(problem, task, seed, model, optimizer, step=step, forwards=lambda: extra)
