"""GPTs over bytes, as people build them, on the source code of Python's standard library.

The idea: where people train today is a transformer with affine norms, biases, learned
positions and a separate head, its weights drawn with a standard deviation of 0.02 and what
writes to the residual stream scaled by 1 / sqrt(2 * layers) (Radford et al., "Language Models
are Unsupervised Multitask Learners", 2019, section 2.3). Two sizes are small enough for one
CPU core: about 0.1 and 1.1 million parameters. The data and what is held out are those of
`text`.
"""

import math
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ._stream import StreamTask
from .base import Batch
from .text import source_of, windows

HELD_OUT = 128  # windows, in batches of a quarter
HEADS, STD = 4, 0.02


class Block(nn.Module):
    """One transformer block: causal attention, then an MLP, each on a normed input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, time, 3, HEADS, width // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # By hand: the fused kernels have no rule for a batch of models.
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // HEADS)
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        heads = scores.masked_fill(later, -math.inf).softmax(-1) @ v
        x = x + self.mix(heads.transpose(1, 2).reshape(batch, time, width))
        return x + self.shrink(F.gelu(self.expand(self.norm_2(x))))


class GPT(nn.Module):
    """A causal transformer over bytes; maps (batch, time) to (batch, time, 256)."""

    def __init__(self, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next byte."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@torch.no_grad()
def initialise(model: GPT, generator: Generator) -> None:
    """Draw all weights anew from one generator; see the module's head."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            small = name.endswith(("mix.weight", "shrink.weight"))
            std = STD / math.sqrt(2 * len(model.blocks)) if small else STD
            nn.init.normal_(parameter, std=std, generator=generator)
        else:
            nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))


class GPTTask(StreamTask):
    """Byte-level language modelling by a GPT of about 0.1M parameters.

    Attributes:
        width: of the residual stream.
        layers: how many blocks.
        context: bytes that a window has before its last.
    """

    name = "gpt-0.1M"
    title = "GPT of 0.1M parameters, Python source, next-byte cross-entropy (nats)"
    low_lr = 2e-3
    batch_size = 4
    prefixes = {
        "embedding": ["token.", "position."],
        "transformer": ["blocks."],
        "head": ["head."],
    }
    width, layers, context = 64, 2, 64

    def __init__(self, data: str | Path | None = None) -> None:
        """Read the text once per process.

        Args:
            data: a folder of .py, .txt and .md files to use instead of the standard library,
                as for `text`.

        Raises:
            MissingDataError: if there is too little text, or no more than one file.
        """
        self._read(*source_of(data))

    def _read(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self._train, held = windows(root.resolve(), suffixes, self.context + 1)
        self.count = len(self._train)
        spread = torch.linspace(0, len(held) - 1, HELD_OUT).long()
        self._held_out = [_pairs(part) for part in held[spread].split(HELD_OUT // 4)]

    def network(self) -> GPT:
        """Return a new GPT."""
        return GPT(self.width, self.layers, self.context)

    def model(self, generator: Generator) -> nn.Module:
        """Return a new model whose weights come from `generator` alone."""
        with torch.random.fork_rng(devices=[]):
            model = self.network()
        initialise(model, generator)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy per byte, in nats."""
        inputs, targets = batch
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def batch(self, seed: int, step: int, rank: int, world_size: int) -> Batch:
        """Return (inputs, targets), each (batch, context), the targets one byte on."""
        return _pairs(self._train[self.places(seed, step, rank, world_size)])


class LargerGPTTask(GPTTask):
    """The same with about 1.1M parameters and twice the context."""

    name = "gpt-1M"
    title = "GPT of 1.1M parameters, Python source, next-byte cross-entropy (nats)"
    low_lr = 1e-3
    batch_size = 2
    width, layers, context = 128, 5, 128


def _pairs(found: Tensor) -> Batch:
    found = found.long()
    return found[:, :-1], found[:, 1:]
