"""Handwritten digits, 8 x 8 pixels, with a small MLP.

The idea: the smallest task that still learns something, to try things out in seconds.
There are 1,797 images, too few for a stream that never repeats. So each visit draws an
image anew, with a fresh shift of up to one pixel each way (zero padded) and fresh pixel
noise, from a generator keyed by (seed, step, rank): no two batches are equal, and the
stream has no end, but the images behind it do return. The 300 held-out images are never
in the stream, and are neither shifted nor noisy.

Data: scikit-learn's `load_digits`, which ships with it: the test part of "Optical
Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI repository).
"""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from hdet.seeding import generator as keyed

from ..core.failures import MissingDataError
from ._weights import MLP_GROUPS, mlp
from .base import Batch, Task, refuse_data

HELD_OUT, HELD_OUT_BATCH = 300, 100
HIDDEN = 64
NOISE = 0.1


class DigitsTask(Task):
    """Classification of small digits; see the module's head."""

    name = "digits"
    title = "digits 8 x 8, cross-entropy (nats)"
    low_lr = 1e-2
    batch_size = 16
    prefixes = MLP_GROUPS

    def __init__(self, data: str | Path | None = None) -> None:
        """Load the images from scikit-learn.

        Args:
            data: None, since the images come with scikit-learn.

        Raises:
            MissingDataError: if scikit-learn is not installed.
            ValueError: if `data` is given.
        """
        refuse_data(self.name, data, "the images come with scikit-learn")
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MissingDataError(
                "`digits` needs the images that come with scikit-learn, and the module "
                "`sklearn` is not installed: pip install --editable benchmarks"
            ) from error
        pixels, targets = load_digits(return_X_y=True)
        images = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 8, 8) / 16
        labels = torch.as_tensor(targets, dtype=torch.int64)
        # The file is ordered by writer: a fixed shuffle puts all hands on both sides.
        order = torch.randperm(len(labels), generator=keyed(0, self.name, "held out"))
        held, train = order[:HELD_OUT], order[HELD_OUT:]
        self._padded, self._labels = F.pad(images[train], (1, 1, 1, 1)), labels[train]
        columns = images[held].flatten(1), labels[held]
        parts = (column.split(HELD_OUT_BATCH) for column in columns)
        self._held_out = list(zip(*parts, strict=True))

    def network(self) -> nn.Module:
        """Return a new MLP with two hidden layers."""
        return mlp(64, HIDDEN, 10)

    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return (images, labels); images are (batch, 64), about 0 to 1.

        `world_size` does not matter: rank 1 draws the same in a run of 2 and of 8.
        """
        draw = keyed(seed, self.name, step, rank)
        size = (self.batch_size,)
        chosen = torch.randint(len(self._labels), size, generator=draw)
        down, right = torch.randint(3, (2, *size, 1), generator=draw)
        rows = (down + torch.arange(8))[:, :, None]
        columns = (right + torch.arange(8))[:, None, :]
        images = self._padded[chosen[:, None, None], rows, columns].flatten(1)
        noise = NOISE * torch.randn(images.shape, generator=draw)
        return images + noise, self._labels[chosen]
