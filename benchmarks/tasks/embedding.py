"""A made-up recommender: will this user like this item, in this context?

The idea: the kind of model where one learning rate for all may be a poor fit. Users and
items are drawn by Zipf's law, so the row of a common user gets a gradient at almost every
step, that of most users once in fifty or more, and the dense layers get one always.
Whether a user likes an item is drawn from a hidden factor model: the product of the
user's and the item's factors, plus an effect of each of the two contexts, in a sigmoid.
The factors' means are not zero, so that there are users who like much and items that
many like: those are learnt first, the rest is learnt slowly and only for common ids. The
stream has no end. The best possible loss is the entropy of the labels, about 0.35 nats;
the best constant answer has 0.54.

The teacher is the same for all seeds; a seed changes the initial weights and the draws.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ._drawn import DrawnTask
from ._weights import mlp
from .base import Batch

SIZES = (2000, 1000, 24, 7)  # users, items, hours and days
ZIPF_POWER = 1.0
FACTORS, FACTOR_MEAN, FACTOR_STD = 4, 0.5, 1.0
CONTEXT_STD, OFFSET = 0.5, -2.5
WIDTH, HIDDEN = 16, 64


class Recommender(nn.Module):
    """One embedding table for each feature, and an MLP on the rows side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, WIDTH) for size in SIZES)
        self.dense = mlp(len(SIZES) * WIDTH, HIDDEN, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits, (batch,), of ids, (batch, 4)."""
        columns = zip(self.tables, ids.unbind(1), strict=True)
        rows = [table(column) for table, column in columns]
        return self.dense(torch.cat(rows, dim=1)).squeeze(1)


class EmbeddingTask(DrawnTask):
    """Binary labels from long-tailed categories; see the module's head."""

    name = "embedding"
    title = "made-up recommender, cross-entropy (nats)"
    low_lr = 8e-3
    batch_size = 32
    prefixes = {"embedding": ["tables."], "dense": ["dense."]}
    embedding_std = 0.1

    def _make_teacher(self, draw: Generator) -> None:
        users, items, hours, days = SIZES
        self._users, self._items = (
            FACTOR_MEAN + FACTOR_STD * torch.randn(size, FACTORS, generator=draw)
            for size in (users, items)
        )
        self._hours, self._days = (
            CONTEXT_STD * torch.randn(size, generator=draw) for size in (hours, days)
        )
        self._shares = [_shares(users, ZIPF_POWER), _shares(items, ZIPF_POWER)]

    def network(self) -> nn.Module:
        """Return a new model with four tables and three dense layers."""
        return Recommender()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean binary cross-entropy, in nats."""
        ids, labels = batch
        return F.binary_cross_entropy_with_logits(model(ids), labels)

    def _logits(self, ids: Tensor) -> Tensor:
        """Return the teacher's logits, (count,)."""
        user, item, hour, day = ids.unbind(1)
        product = (self._users[user] * self._items[item]).sum(1)
        return OFFSET + product + self._hours[hour] + self._days[day]

    def _draw(self, count: int, draw: Generator) -> Batch:
        columns = [
            torch.searchsorted(below, torch.rand(count, generator=draw), right=True)
            for below in self._shares
        ]
        columns += [torch.randint(size, (count,), generator=draw) for size in SIZES[2:]]
        ids = torch.stack(columns, dim=1)
        chance = torch.rand(count, generator=draw)
        return ids, (chance < torch.sigmoid(self._logits(ids))).float()


def _shares(size: int, power: float) -> Tensor:
    """Return where the ids after the first begin if all draws were laid on [0, 1).

    An id's share falls with its number as `1 / (1 + id) ** power`.
    """
    weights = torch.arange(1, size + 1, dtype=torch.float64) ** -power
    return (weights.cumsum(0) / weights.sum())[:-1].float()
