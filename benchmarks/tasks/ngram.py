"""Next-byte prediction from the last twelve bytes, with an embedding and an MLP.

The idea: the oldest neural language model (Bengio et al., "A Neural Probabilistic Language
Model", JMLR 2003) has real text, a softmax over bytes and an embedding, and costs a fraction
of a transformer. The data and what is held out are those of `text`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ._stream import StreamTask
from ._weights import mlp
from .base import Batch
from .text import source_of, windows

CONTEXT, WIDTH, HIDDEN = 12, 16, 128
HELD_OUT = 8192  # windows, in four batches


class NGramTask(StreamTask):
    """Byte-level language modelling by an MLP; see the module's head."""

    name = "ngram"
    title = "n-gram MLP, Python source, next-byte cross-entropy (nats)"
    low_lr = 2e-3
    batch_size = 32
    prefixes = {"embedding": ["0."], "hidden": ["2.0.", "2.2."], "head": ["2.4."]}
    embedding_std = 0.5

    def __init__(self, data: str | Path | None = None) -> None:
        """Read the text once per process.

        Args:
            data: a folder of .py, .txt and .md files to use instead of the standard library,
                as for `text`.

        Raises:
            MissingDataError: if there is too little text, or no more than one file.
        """
        root, suffixes = source_of(data)
        self._train, held = windows(root.resolve(), suffixes, CONTEXT + 1)
        self.count = len(self._train)
        spread = torch.linspace(0, len(held) - 1, HELD_OUT).long()
        self._held_out = [_pairs(part) for part in held[spread].split(HELD_OUT // 4)]

    def network(self) -> nn.Module:
        """Return a new model: an embedding, then two hidden layers on the rows side by side."""
        dense = mlp(CONTEXT * WIDTH, HIDDEN, 256)
        return nn.Sequential(nn.Embedding(256, WIDTH), nn.Flatten(), dense)

    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return (inputs, targets), (batch, 12) and (batch,)."""
        return _pairs(self._train[self.places(seed, step, rank, world_size)])


def _pairs(found: Tensor) -> Batch:
    found = found.long()
    return found[:, :-1], found[:, -1]
