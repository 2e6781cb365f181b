"""Fashion-MNIST, 28 x 28 pixels and ten kinds of clothes, with a small convolution net.

The idea: images that are small enough for one CPU thread, yet hard enough that the
learning rate matters. The 60,000 training images are visited in a seeded order, each
once. Held out are the first 2,000 of the 10,000 test images and no more: held-out
losses are taken many times in a comparison of many runs, and each costs a tenth of a
second or two as it is.

Data: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms", arXiv 1708.07747; four gzipped files in MNIST's idx
format, from Debian's package `dataset-fashion-mnist` or a folder that the user names.
"""

import gzip
import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..core.failures import MissingDataError
from ._stream import StreamTask
from .base import Batch

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
HELD_OUT, HELD_OUT_BATCH = 2000, 250
MEAN, STD = 0.286, 0.353  # of the training pixels, scaled to 0..1
REMEDY = (
    "To get Fashion-MNIST on Debian or Ubuntu: sudo apt-get install "
    "dataset-fashion-mnist. Elsewhere: git clone "
    "https://github.com/zalandoresearch/fashion-mnist, and give its folder "
    "data/fashion as `data`."
)


class FashionTask(StreamTask):
    """Classification of clothes; see the module's head.

    Attributes:
        held_out_images: how many of the test images.
    """

    name = "fashion"
    title = "Fashion-MNIST, cross-entropy (nats)"
    low_lr = 1e-2
    batch_size = 8
    prefixes = {"convolution": ["0.", "3."], "head": ["7."]}
    held_out_images = HELD_OUT

    def __init__(self, data: str | Path | None = None) -> None:
        """Read the four files once per process.

        Args:
            data: the folder that holds them; by default the Debian package's.

        Raises:
            MissingDataError: if a file is absent or damaged.
        """
        folder = DEFAULT_FOLDER if data is None else Path(data)
        self._images, self._labels = pairs(folder, "train")
        self.count = len(self._labels)
        held = (column[: self.held_out_images] for column in pairs(folder, "t10k"))
        images, labels = (column.split(HELD_OUT_BATCH) for column in held)
        self._held_out = list(zip(map(_scaled, images), labels, strict=True))

    def network(self) -> nn.Module:
        """Return a new net: two convolutions with pooling, then a linear layer."""
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, 10),
        )

    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return (images, labels); images are (batch, 1, 28, 28), standardised."""
        chosen = self.places(seed, step, rank, world_size)
        return _scaled(self._images[chosen]), self._labels[chosen]


class WholeFashionTask(FashionTask):
    """The same with all test images held out, where differences of 1 % are to be told."""

    name = "fashion-whole"
    batch_size = 32
    held_out_images = 10_000


def _scaled(images: Tensor) -> Tensor:
    return (images[:, None].float() / 255 - MEAN) / STD


@lru_cache(maxsize=4)
def pairs(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return the images, (count, 28, 28) uint8, and labels of `train` or `t10k`."""
    path = folder / f"{part}-labels-idx1-ubyte.gz"
    images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
    labels = _read_idx(path, 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels) or labels.max() > 9:
        raise _damaged(
            path,
            f"there are {len(labels)} labels, the highest {labels.max()}, for images "
            f"of shape {tuple(images.shape)}; expected labels up to 9, as many as "
            "images of 28 x 28",
        )
    return images, labels.long()


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """Return the bytes of a gzipped idx file in their shape.

    The file begins, in big-endian order, with two zero bytes, the type (8: unsigned
    bytes), the number of dimensions, and each dimension as 32 bits.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingDataError(
            f"`fashion` needs {path.name}, and {path.parent} has no such file. {REMEDY}"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"it cannot be unpacked ({error})") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        raise _damaged(
            path,
            f"it begins with {content[:4].hex()}, not with the idx header "
            f"{bytes([0, 0, 8, dimensions]).hex()} and {dimensions} sizes",
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    values = np.frombuffer(bytearray(content[start:]), dtype=np.uint8)
    if values.size != np.prod(shape) or values.size == 0:
        raise _damaged(path, f"its header says {shape}, but {values.size} bytes follow")
    return torch.from_numpy(values.reshape(shape))


def _damaged(path: Path, found: str) -> MissingDataError:
    return MissingDataError(f"`fashion`: {path} is damaged: {found}. {REMEDY}")
