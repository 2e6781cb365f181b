"""MovieLens-100k as a recommender in the HDET paper's manner: online, with two tasks.

The idea: ratings arrive in the order in which they were given, and a model with user
and item embeddings, a shared trunk and one head per task reads each once. `liked` asks
whether a rating is 4 or more (binary cross-entropy), `value` for the rating itself
(squared error of rating - 3.5); the loss is their sum. The last tenth in time is held
out: the model is asked about its future, largely about users whom it has never met and
whose embeddings are still as they began. Users rate in sittings: neighbours in the
stream are alike, and training losses swing more than in a shuffled stream.

The stream is not shuffled, so `seed` does not change the batches. Runs of different
seeds differ in their initial weights only, and their scatter says nothing about the
order of the data.

Data: Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4),
2015; GroupLens's `u.data`, or the copy `ml-100k.inter` in the wheel of RecBole (Zhao et
al., CIKM 2021), found without importing it. Read GroupLens's terms before use.
"""

from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.failures import MissingDataError
from ._stream import StreamTask, places
from .base import Batch

WIDTH, HIDDEN = 16, 64
HELD_OUT_SHARE, HELD_OUT_BATCHES = 0.1, 10
FILES = ("ml-100k.inter", "u.data")
COLUMNS = ("user_id", "item_id", "rating", "timestamp")
REMEDY = (
    "To get MovieLens-100k: pip install --no-deps recbole (its wheel has the file), or "
    "unpack https://files.grouplens.org/datasets/movielens/ml-100k.zip and give the "
    "path of u.data as `data`."
)


class TwoHeads(nn.Module):
    """User and item embeddings, a trunk, and a head for each of the two tasks."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, WIDTH), nn.Embedding(items, WIDTH)
        self.trunk = nn.Sequential(
            nn.Linear(2 * WIDTH, HIDDEN),
            nn.LayerNorm(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
        )
        self.liked, self.value = nn.Linear(HIDDEN, 1), nn.Linear(HIDDEN, 1)

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logit of `liked` and the estimate of rating - 3.5, per example."""
        x = self.trunk(torch.cat([self.user(user), self.item(item)], dim=1))
        return self.liked(x).squeeze(1), self.value(x).squeeze(1)


class MovieLensTask(StreamTask):
    """Two predictions per rating, in the order of time; see the module's head."""

    name = "movielens"
    title = "MovieLens-100k in time order, liked (nats) + squared error of the rating"
    low_lr = 1e-2
    batch_size = 16
    # As in the paper, with `trunk` for its `transformer`.
    prefixes = {
        "embedding": ["user.", "item."],
        "trunk": ["trunk."],
        "non_embedding": ["liked.", "value."],
    }
    embedding_std = 0.1

    def __init__(self, data: str | Path | None = None) -> None:
        """Read and sort the ratings once per process.

        Args:
            data: `ml-100k.inter`, `u.data`, or a folder with one of them; by default
                the file in the installed `recbole`.

        Raises:
            MissingDataError: if there is no such file, or it cannot be read.
        """
        path = _installed() if data is None else _given(Path(data))
        users, items, ratings = _ratings(path)
        self._users, self._items = int(users.max()) + 1, int(items.max()) + 1
        held = int(HELD_OUT_SHARE * len(ratings))
        self.count = len(ratings) - held
        self._train = tuple(x[: self.count] for x in (users, items, ratings))
        # Batches of one size, so that the mean of their losses is the mean loss.
        each = max(1, held // HELD_OUT_BATCHES)
        held -= held % each
        last = [x[len(x) - held :].split(each) for x in (users, items, ratings)]
        self._held_out = list(zip(*last, strict=True))

    def network(self) -> nn.Module:
        """Return a new model with a row for every user and item of the file."""
        return TwoHeads(self._users, self._items)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of both tasks' mean losses."""
        user, item, rating = batch
        liked, value = model(user, item)
        entropy = F.binary_cross_entropy_with_logits(liked, (rating >= 4).float())
        return entropy + F.mse_loss(value, rating - 3.5)

    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return (user, item, rating); `seed` changes nothing, see the head."""
        at = places(self.count, self.batch_size, step, rank, world_size)
        return tuple(column[at] for column in self._train)


def _installed() -> Path:
    """Return the path of the ratings in the installed `recbole`, unimported."""
    try:
        files = metadata.files("recbole") or []
    except metadata.PackageNotFoundError as error:
        raise MissingDataError(
            f"`movielens` needs {FILES[0]}, looked for it in the package `recbole`, "
            f"and that is not installed. {REMEDY}"
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if file.name == FILES[0] and path.is_file():
            return path
    raise MissingDataError(
        f"`movielens` needs {FILES[0]}, and the installed `recbole` has none among its "
        f"{len(files)} files. {REMEDY}"
    )


def _given(path: Path) -> Path:
    """Return the file that `path` is or holds."""
    for candidate in (path, *(path / name for name in FILES)):
        if candidate.is_file():
            return candidate.resolve()
    raise MissingDataError(
        f"`movielens` found no file at {path}, nor {' or '.join(FILES)} in it. {REMEDY}"
    )


@lru_cache(maxsize=2)
def _ratings(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Return users, items (both counted from 0) and ratings, in the order of time."""
    lines = path.read_text().splitlines()
    if lines and lines[0].startswith("user_id:"):
        names = tuple(field.split(":")[0] for field in lines[0].split("\t"))
        if names[:4] != COLUMNS:
            raise _unreadable(path, 1, lines[0])
        first = 1
    else:
        first = 0
    rows = []
    for number, line in enumerate(lines[first:], first + 1):
        fields = line.split("\t")
        try:
            rows.append((fields[0], fields[1], float(fields[2]), float(fields[3])))
        except (IndexError, ValueError):
            raise _unreadable(path, number, line) from None
    if not rows:
        raise _unreadable(path, 1, "")
    users, items, ratings, times = zip(*rows, strict=True)
    order = torch.from_numpy(np.argsort(times, kind="stable"))
    # Over the whole file: held-out users and items need a row in the tables too.
    dense = [torch.from_numpy(np.unique(x, return_inverse=True)[1]) for x in (users, items)]
    return dense[0][order], dense[1][order], torch.tensor(ratings)[order]


def _unreadable(path: Path, number: int, line: str) -> MissingDataError:
    return MissingDataError(
        f"`movielens`: line {number} of {path} is {line[:80]!r}, where "
        f"{', '.join(COLUMNS)} are needed, separated by tabs. {REMEDY}"
    )
