"""Fine-tuning: a GPT that this benchmark pretrained goes on with text of another kind.

The idea: most runs that people start are fine-tunes. A GPT of four blocks is pretrained on the
Python source that `gpt-0.1M` reads, always from the same seed, and kept in the machine's folder
for temporary files. It is then trained on C++: the header files that every installed torch has.
Three ways, as people have them: the last block with norm and head; low-rank adapters on every
matrix of the blocks (Hu et al., "LoRA", arXiv 2106.09685, equation (3); rank 8, alpha 16, the
first factor drawn by Kaiming's rule, the second zero); and all weights.
"""

import hashlib
import math
import os
import sys
import tempfile
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from hdet.seeding import generator as keyed

from .base import Batch, refuse_data
from .gpt import GPT, GPTTask

HEADERS = Path(torch.__file__).parent / "include" / "torch"
PRETRAINING_STEPS, PRETRAINING_LR, REPLICAS = 2500, 5e-3, 4
RANK, ALPHA = 8, 16


class FineTuneTask(GPTTask):
    """Next-byte prediction on C++ from a pretrained GPT; all weights are trained.

    Attributes:
        steps: of the pretraining, on 16 windows each.
    """

    name = "finetune-full"
    title = "fine-tuning of all weights, C++ headers, next-byte cross-entropy (nats)"
    low_lr = 2e-4
    layers = 4
    steps = PRETRAINING_STEPS

    def __init__(self, data: str | Path | None = None) -> None:
        """Read the text once per process, and pretrain once per machine (a minute or so).

        Args:
            data: None, since the text comes with torch.

        Raises:
            MissingDataError: if torch's headers or the standard library are absent.
            ValueError: if `data` is given.
        """
        refuse_data(self.name, data, "the text comes with torch")
        self._read(HEADERS, (".h",))
        self._weights = pretrained(self.steps)

    def model(self, generator: Generator) -> nn.Module:
        """Return the pretrained model; `generator` draws what is new."""
        model = GPT(self.width, self.layers, self.context)
        model.load_state_dict(self._weights)
        self._prepare(model, generator)
        return model

    def _prepare(self, model: GPT, generator: Generator) -> None:
        """Say what is trained."""


class LastBlockTask(FineTuneTask):
    """The same with the last block, the norm and the head alone."""

    name = "finetune-block"
    title = "fine-tuning of the last block, C++ headers, next-byte cross-entropy (nats)"
    low_lr = 1e-3

    def _prepare(self, model: GPT, generator: Generator) -> None:
        model.requires_grad_(False)
        for part in (model.blocks[-1], model.norm, model.head):
            part.requires_grad_(True)


class LoRATask(FineTuneTask):
    """The same with low-rank adapters alone."""

    name = "finetune-lora"
    title = "fine-tuning by low-rank adapters, C++ headers, next-byte cross-entropy (nats)"
    low_lr = 2e-3

    def _prepare(self, model: GPT, generator: Generator) -> None:
        model.requires_grad_(False)
        for block in model.blocks:
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(block, name, Adapted(layer, generator))


class Adapted(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices."""

    def __init__(self, layer: nn.Linear, generator: Generator) -> None:
        super().__init__()
        self.layer = layer
        bound = 1 / math.sqrt(layer.in_features)
        down = torch.empty(RANK, layer.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(layer.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return self.layer(x) + ALPHA / RANK * (x @ self.down.T @ self.up.T)


def pretrained(steps: int) -> dict[str, Tensor]:
    """Return the weights after pretraining on Python source, made once and then read.

    Args:
        steps: optimizer steps, on 16 windows each.
    """
    task = _Pretraining()
    about = (
        f"{torch.__version__} {sys.version} {task.count} {steps} {PRETRAINING_LR} "
        f"{task.width} {task.layers} {task.context}"
    )
    name = hashlib.sha256(about.encode()).hexdigest()[:16]
    file = Path(tempfile.gettempdir()) / "hdet-benchmarks" / f"gpt-{name}.pt"
    if file.exists():
        return torch.load(file, weights_only=True)
    model = _pretrain(task, steps)
    file.parent.mkdir(exist_ok=True)
    # Written apart and renamed: another process may do the same, or read it at any moment.
    part = file.with_suffix(f".{os.getpid()}")
    torch.save(model.state_dict(), part)
    part.replace(file)
    return model.state_dict()


def _pretrain(task: GPTTask, steps: int) -> nn.Module:
    model = task.model(keyed(0, "pretraining"))
    optimizer = AdamW(model.parameters(), lr=PRETRAINING_LR, fused=True)
    schedule = OneCycleLR(optimizer, PRETRAINING_LR, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        parts = [task.batch(0, step, r, REPLICAS) for r in range(REPLICAS)]
        batch: Batch = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
        schedule.step()
    return model


class _Pretraining(GPTTask):
    layers = FineTuneTask.layers
