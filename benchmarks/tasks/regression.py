"""Regression on a random ReLU network, with noise on the targets.

The idea: a loss that is not bounded in slope. Under squared error a gradient grows with
the error, so where the learning rate is too high for SGD, the weights overflow or every
ReLU dies, and no later rate mends that. Inputs are standard normal; the target is the
output of a fixed random network, scaled to variance 1 or so, plus normal noise. So the
stream has no end, no example returns, and the best possible loss is the variance of the
noise, 0.25.

The teacher is the same for all seeds; a seed changes the initial weights and the draws.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ._drawn import DrawnTask
from ._weights import MLP_GROUPS, mlp
from .base import Batch

INPUTS, TEACHER_HIDDEN = 16, 32
HIDDEN = 64
NOISE = 0.5


class RegressionTask(DrawnTask):
    """Squared error against a noisy random teacher; see the module's head."""

    name = "regression"
    title = "random teacher with noise, mean squared error"
    low_lr = 1e-2
    batch_size = 16
    prefixes = MLP_GROUPS

    def _make_teacher(self, draw: Generator) -> None:
        first = torch.randn(INPUTS, TEACHER_HIDDEN, generator=draw)
        second = torch.randn(TEACHER_HIDDEN, 1, generator=draw)
        # A ReLU halves the mean square, which the first 2 makes up for; about half of
        # what is left is variance, hence the second.
        self._first = first * (2 / INPUTS) ** 0.5
        self._second = second * (2 / TEACHER_HIDDEN) ** 0.5

    def network(self) -> nn.Module:
        """Return a new MLP with two hidden layers."""
        return mlp(INPUTS, HIDDEN, 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean squared error."""
        inputs, targets = batch
        return F.mse_loss(model(inputs), targets)

    def _expected(self, inputs: Tensor) -> Tensor:
        """Return the targets without their noise, (count, 1)."""
        return torch.relu(inputs @ self._first) @ self._second

    def _draw(self, count: int, draw: Generator) -> Batch:
        inputs = torch.randn(count, INPUTS, generator=draw)
        noise = NOISE * torch.randn(count, 1, generator=draw)
        return inputs, self._expected(inputs) + noise
