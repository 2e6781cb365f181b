"""Real text that every machine with Python has, and a small transformer that reads it.

The source code of Python's standard library is ten megabytes of text in several hundred files.
It is read as bytes, so there is no tokeniser and nothing to download. Whole files are held out,
chosen by a hash of their path, so that no half of a function that was trained on is judged.
"""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

CONTEXT, WIDTH, HEADS, LAYERS = 64, 64, 4, 2
HELD_OUT = 1024  # windows that judge a run
_SHARE = 0.05  # of the files, held out
# Installed packages and tests, and what is generated from tables.
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
_SKIPPED |= {"encodings", "pydoc_data"}


def read_text(root: Path) -> tuple[Tensor, Tensor]:
    """Return windows of text to train on, and held-out ones.

    Args:
        root: a folder with .py files.

    Returns:
        Rows of one byte more than the context, as uint8.
    """
    texts: tuple[list[bytes], list[bytes]] = [], []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if name not in _SKIPPED)
        for path in (Path(folder, name) for name in sorted(names) if name.endswith(".py")):
            digest = hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()
            texts[digest[0] < 256 * _SHARE].append(path.read_bytes())
    train, held_out = (_windows(b"".join(text)) for text in texts)
    return train, held_out


def _windows(text: bytes) -> Tensor:
    count = len(text) // (CONTEXT + 1)
    whole = bytearray(text[: count * (CONTEXT + 1)])
    return torch.frombuffer(whole, dtype=torch.uint8).view(count, CONTEXT + 1)


class ByteTransformer(nn.Module):
    """A causal transformer over bytes, with norms before its layers: 104,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(256, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(WIDTH)
        self.layers = nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next byte, [batch, context, 256]."""
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        x = self.token(tokens) + self.position.weight
        return self.head(self.layers(x, mask=mask, is_causal=True))


def loss_of(model: nn.Module, rows: Tensor) -> Tensor:
    """Return the mean cross-entropy per byte, in nats."""
    rows = rows.long()
    return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
