"""Next-byte prediction on the source code of Python's standard library.

The idea: most machines that run this library have ten megabytes of real, structured
text on disk. A small causal transformer (pre-norm, learned positions) reads it as
bytes, so there is no tokeniser and no download, and one pass lasts thousands of steps.
Whole files are held out, chosen by a hash of their path, so that no half of a function
that was trained on is tested. Licence headers and copied helpers are shared all the
same: under Python 3.11, 10 of the 256 held-out windows also occur in training files.

Data: the .py files under `sysconfig.get_paths()["stdlib"]`, without installed packages
and test suites, under Python's own licence; or the .py, .txt and .md files of a folder
that the user names. Files differ between versions of Python, hence losses do too:
compare runs of one version only. The four parameter groups are those of the HDET paper.
"""

import hashlib
import os
import sysconfig
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..core.failures import MissingDataError
from ._stream import StreamTask
from .base import Batch

CONTEXT, WIDTH, HIDDEN, HEADS, LAYERS = 64, 64, 128, 4, 2
WINDOW = CONTEXT + 1
HELD_OUT_SHARE, HELD_OUT_BATCHES = 0.05, 64
MIN_BYTES = 1_000_000
# Installed packages and tests; then what is generated from tables: code pages are near
# copies of each other, and one file of help texts would be most of the held-out bytes.
SKIPPED = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "idle_test",
}
SKIPPED |= {"encodings", "pydoc_data"}
REMEDY = (
    "A Python whose standard library is zipped or stripped has none of its source: get "
    "it with `curl -L https://www.python.org/ftp/python/3.13.0/Python-3.13.0.tgz | "
    "tar xz` and give the folder Python-3.13.0/Lib as `data`, or any folder of .py, "
    ".txt and .md files."
)


class Block(nn.Module):
    """One transformer block: causal attention, then an MLP, each on a normed input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.expand = nn.Linear(WIDTH, HIDDEN)
        self.shrink = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape."""
        batch, time, _ = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, time, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(heads.transpose(1, 2).reshape(batch, time, WIDTH))
        return x + self.shrink(F.gelu(self.expand(self.norm_2(x))))


class ByteTransformer(nn.Module):
    """A causal transformer over bytes; maps (batch, time) to (batch, time, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(256, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next byte."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class TextTask(StreamTask):
    """Byte-level language modelling; see the module's head."""

    name = "text"
    title = "Python source, next-byte cross-entropy (nats)"
    low_lr = 1e-2
    # Small, so that four replicas on two cores take some thirty steps a second.
    batch_size = 4
    # The paper's.
    prefixes = {
        "embedding": ["token.", "position."],
        "transformer": ["blocks."],
        "non_embedding": ["head."],
    }

    def __init__(self, data: str | Path | None = None) -> None:
        """Read the text once per process.

        Args:
            data: a folder of .py, .txt and .md files to use instead of the standard
                library, at least 1 MB of them; subfolders in `SKIPPED` do not count.

        Raises:
            MissingDataError: if there is too little text, or no more than one file.
        """
        root, suffixes = source_of(data)
        self._train, held = windows(root.resolve(), suffixes, WINDOW)
        self.count = len(self._train)
        spread = torch.linspace(0, len(held) - 1, HELD_OUT_BATCHES * self.batch_size)
        chosen = held[spread.long()].split(self.batch_size)
        self._held_out = [_inputs_and_targets(windows) for windows in chosen]

    def network(self) -> nn.Module:
        """Return a new transformer."""
        return ByteTransformer()

    def model(self, generator: Generator) -> nn.Module:
        """Return a new model; what writes to the residual stream starts small."""
        model = super().model(generator)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("mix.weight", "shrink.weight")):
                    weight /= (2 * LAYERS) ** 0.5
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy per byte, in nats."""
        inputs, targets = batch
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return (inputs, targets), each (batch, context), the targets one byte on."""
        return _inputs_and_targets(self._train[self.places(seed, step, rank, world_size)])


def _inputs_and_targets(windows: Tensor) -> Batch:
    windows = windows.long()
    return windows[:, :-1], windows[:, 1:]


def source_of(data: str | Path | None) -> tuple[Path, tuple[str, ...]]:
    """Return the folder and the files' suffixes: the standard library's, or a user's."""
    if data is None:
        return Path(sysconfig.get_paths()["stdlib"]), (".py",)
    return Path(data), (".py", ".txt", ".md")


@lru_cache(maxsize=4)
def windows(root: Path, suffixes: tuple[str, ...], width: int) -> tuple[Tensor, Tensor]:
    """Return the training and the held-out windows, (count, width) uint8 each.

    Raises:
        MissingDataError: if there is too little text, or no more than one file.
    """
    texts = _texts(root, suffixes)
    held = _held_out_names(texts)
    train = _cut([text for name, text in texts.items() if name not in held], width)
    total = sum(map(len, texts.values()))
    if total < MIN_BYTES or len(train) * width < total // 2:
        raise MissingDataError(
            f"`text` found too little to train on in {root}: {len(texts)} "
            f"{'/'.join(suffixes)} files with {total} bytes in all. It needs "
            f"{MIN_BYTES} bytes, in several files, since whole files are held out. "
            f"{REMEDY}"
        )
    return train, _cut([texts[name] for name in sorted(held)], width)


def _texts(root: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    """Return the files' bytes by relative path, in the order of the paths."""
    found = {}
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in SKIPPED]
        for path in (Path(folder, name) for name in names):
            if path.suffix in suffixes and path.is_file():
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return dict(sorted(found.items()))


def _held_out_names(texts: dict[str, bytes]) -> set[str]:
    """Return about 5 % of the files, and enough of them to fill the batches."""
    enough = HELD_OUT_BATCHES * TextTask.batch_size * WINDOW
    held: set[str] = set()
    size = 0
    for place, name in sorted((_hash_share(name), name) for name in texts):
        if place >= HELD_OUT_SHARE and size >= enough:
            break
        held.add(name)
        size += len(texts[name])
    return held


def _hash_share(name: str) -> float:
    """Return a number in [0, 1) that is fixed by `name`, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _cut(texts: list[bytes], width: int) -> Tensor:
    joined = np.frombuffer(bytearray(b"".join(texts)), dtype=np.uint8)
    count = len(joined) // width
    return torch.from_numpy(joined[: count * width].reshape(count, width))
