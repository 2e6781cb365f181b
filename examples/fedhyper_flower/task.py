"""The task: Fashion-MNIST, or a stand-in, on clients with different label distributions."""

import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
MIN_EXAMPLES = 8  # examples of the smallest client

Examples = tuple[Tensor, Tensor]


def net(seed: int = 0) -> nn.Module:
    """Return a small convolution net; the weights are the seed's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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


@lru_cache(maxsize=1)
def load(data: str) -> tuple[Examples, Examples]:
    """Return training and test examples: images (n, 1, 28, 28), and labels."""
    if data == "synthetic":
        return _synthetic(1000, 1), _synthetic(200, 2)
    folder = FOLDER if data == "fashion-mnist" else Path(data)
    arrays = []
    for name in FILES:
        file = folder / f"{name}-ubyte.gz"
        if not file.exists():
            raise FileNotFoundError(
                f"{file} does not exist: `apt-get install dataset-fashion-mnist`, or give the "
                f"folder of the four files: --run-config 'data=\"/my/folder\"'."
            )
        skip = 16 if "images" in name else 8
        arrays.append(np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=skip))
    images = [
        torch.from_numpy(a.reshape(-1, 1, 28, 28).astype(np.float32) / 255 - 0.286)
        for a in arrays[::2]
    ]
    labels = [torch.from_numpy(a.astype(np.int64)) for a in arrays[1::2]]
    return (images[0], labels[0]), (images[1], labels[1])


def _synthetic(count: int, seed: int) -> Examples:
    """Return ten noisy patterns, the same ten for every seed."""
    patterns = np.random.default_rng(0).normal(size=(10, 1, 28, 28))
    source = np.random.default_rng(seed)
    labels = source.integers(10, size=count)
    images = 0.5 * patterns[labels] + source.normal(size=(count, 1, 28, 28))
    return torch.from_numpy(images).float(), torch.from_numpy(labels)


@lru_cache(maxsize=1)
def partition(data: str, clients: int, dirichlet: float, seed: int) -> list[Tensor]:
    """Return each client's indices: every class is split by its own draw of shares."""
    (_, labels), _ = load(data)
    source = np.random.default_rng(seed)
    for _ in range(20):
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label in range(10):
            indices = source.permutation(np.flatnonzero(labels.numpy() == label))
            shares = source.dirichlet([dirichlet] * clients)
            cuts = (shares.cumsum()[:-1] * len(indices)).astype(int)
            for part, piece in zip(parts, np.split(indices, cuts), strict=True):
                part.append(piece)
        whole = [torch.from_numpy(np.concatenate(part)) for part in parts]
        if min(len(part) for part in whole) >= MIN_EXAMPLES:
            return whole
    raise ValueError(
        f"no split of {len(labels)} examples among {clients} clients gives each "
        f"{MIN_EXAMPLES}: use fewer clients, or a larger `dirichlet` than {dirichlet}."
    )


def loss_and_accuracy(model: nn.Module, examples: Examples) -> tuple[float, float]:
    """Return the mean cross-entropy and the share of right answers."""
    images, labels = examples
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model(batch) for batch in images.split(500)])
    loss = nn.functional.cross_entropy(scores, labels)
    return float(loss), float((scores.argmax(1) == labels).float().mean())
