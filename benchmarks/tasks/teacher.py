"""A student network that learns a random teacher's labels, some of which are noise.

The idea: a stream that is endless in truth. Inputs are standard normal, a fixed random
tanh network with a softmax on top says how likely each class is, and the label is drawn
from it; one label in ten is drawn from all classes alike instead. So no example ever
returns, nothing can be learnt by heart, and the best possible loss is known: it is the
entropy of the labels, about 1.4 nats, far from zero. Gradients stay noisy at that floor,
which punishes a learning rate that stays high.

The teacher is the same for all seeds; a seed changes the initial weights and the draws.
"""

import torch
from torch import Generator, Tensor, nn

from ._drawn import DrawnTask
from ._weights import MLP_GROUPS, mlp
from .base import Batch

INPUTS, TEACHER_HIDDEN, CLASSES = 32, 48, 10
HIDDEN = 64
LOGIT_STD = 4.0  # of a logit if all hidden units were at +-1: sure of some, not of all
NOISE_SHARE = 0.1


class TeacherTask(DrawnTask):
    """Classification by a random teacher, with label noise; see the module's head."""

    name = "teacher"
    title = "random teacher with label noise, cross-entropy (nats)"
    low_lr = 6e-3
    batch_size = 16
    prefixes = MLP_GROUPS

    def _make_teacher(self, draw: Generator) -> None:
        first = torch.randn(INPUTS, TEACHER_HIDDEN, generator=draw)
        second = torch.randn(TEACHER_HIDDEN, CLASSES, generator=draw)
        self._first = first * INPUTS**-0.5
        self._second = second * LOGIT_STD * TEACHER_HIDDEN**-0.5

    def network(self) -> nn.Module:
        """Return a new MLP with two hidden layers."""
        return mlp(INPUTS, HIDDEN, CLASSES)

    def _probabilities(self, inputs: Tensor) -> Tensor:
        """Return how likely each class is, (count, 10), the noise included."""
        sure = torch.softmax(torch.tanh(inputs @ self._first) @ self._second, dim=1)
        return (1 - NOISE_SHARE) * sure + NOISE_SHARE / CLASSES

    def _draw(self, count: int, draw: Generator) -> Batch:
        inputs = torch.randn(count, INPUTS, generator=draw)
        labels = torch.multinomial(self._probabilities(inputs), 1, generator=draw)
        return inputs, labels.squeeze(1)
