"""Small Trainers for the tests: a tiny GPT-2 made here, on this process's rank."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.utils import logging

from hdet.integrations.transformers import HDETCallback

WIDTH, WORDS = 12, 32


class Texts(Dataset):
    """Arithmetic sequences; every third has a tail of its own length that is not trained."""

    def __init__(self, count: int, seed: int, ragged: bool = False) -> None:
        draw = torch.Generator().manual_seed(seed)
        start = torch.randint(0, WORDS, (count, 1), generator=draw)
        step = torch.randint(1, 4, (count, 1), generator=draw)
        self.tokens = (start + torch.arange(WIDTH) * step) % WORDS
        self.labels = self.tokens.clone()
        if ragged:
            kept = torch.randint(2, WIDTH, (count, 1), generator=draw)
            self.labels[torch.arange(WIDTH) >= kept] = -100

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[row], "labels": self.labels[row]}


class Plain(nn.Module):
    """A model that takes no `num_items_in_batch`: its loss is the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.out = nn.Linear(8, WORDS)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        scores = self.out(self.words(input_ids))[:, :-1].flatten(0, 1)
        loss = nn.functional.cross_entropy(scores, labels[:, 1:].flatten())
        return {"loss": loss, "logits": scores.detach().reshape(len(labels), -1)}


def gpt2(dropout: float = 0.0) -> GPT2LMHeadModel:
    """Return a tiny model, the same each time."""
    torch.manual_seed(0)
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    shape: dict[str, Any] = {"n_positions": WIDTH, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, **shape, **drop, **ends))


def as_torchrun_does() -> None:
    """Set the environment that tells Accelerate of this process's group."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    size, rank = dist.get_world_size(), dist.get_rank()
    if size > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ.update({name: str(value) for name, value in ranks.items()})


def make_trainer(
    folder: str | Path, model: nn.Module | None = None, ragged: bool = False, **settings: Any
) -> Trainer:
    """Return a Trainer of a short run."""
    changed: dict[str, Any] = {
        "max_steps": 20,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 32,
        "use_cpu": True,
        "ddp_backend": "gloo",
        "ddp_find_unused_parameters": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        **settings,
    }
    return Trainer(
        model=model or gpt2(),
        args=TrainingArguments(str(folder), **changed),
        train_dataset=Texts(640, 1, ragged),
        eval_dataset=Texts(32, 2),
    )


def tuned(trainer: Trainer, **settings: Any) -> HDETCallback:
    """Add the callback to a Trainer, and return it."""
    callback = HDETCallback(trainer, Texts(256, 3), **settings)
    trainer.add_callback(callback)
    return callback


def weights(model: Any) -> Tensor:
    """Return a copy of all weights as one vector."""
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def spread(model: Any) -> float:
    """Return the largest distance between the ranks' weights. Collective."""
    own = weights(model)
    all_of_them = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(all_of_them, own)
    return max(float((other - own).abs().max()) for other in all_of_them)


def saved(folder: str | Path, model: Any) -> Tensor:
    """Return the weights that a checkpoint holds, in the order of `weights`."""
    file = load_file(Path(folder) / "model.safetensors")
    return torch.cat([file[name].flatten() for name, _ in model.named_parameters()])


@contextmanager
def raising() -> Iterator[list[str]]:
    """Keep the message of an error, so that all ranks go on."""
    said: list[str] = []
    try:
        yield said
    except (TypeError, ValueError, RuntimeError) as error:
        said.append(f"{type(error).__name__}: {error}")
