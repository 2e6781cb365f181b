"""What a script has before hdet comes in: the names that a page's diff is executed with.

One process, one replica: that a page's lines run and fit together is what is tested here; what
they do with several replicas is tested elsewhere. Each page that is not about a plain training
loop adds the names of its framework.
"""

import re
from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import hdet
from hdet.seeding import generator

Space = dict[str, Any]
STEPS = 20  # of the loop over `loader`


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared error."""
    x, y = batch
    return (model(x) - y).square().mean()


def _batches(count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    draw = generator(0, "documentation")
    return [
        (torch.randn(size, 8, generator=draw), torch.randn(size, 1, generator=draw))
        for _ in range(count)
    ]


def plain() -> Space:
    """Return what an ordinary training script has, in an initialised process group."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {
        "hdet": hdet,
        "torch": torch,
        "nn": nn,
        "dist": dist,
        "dcp": dcp,
        "init_device_mesh": init_device_mesh,
        "fully_shard": fully_shard,
        "DistributedDataParallel": DistributedDataParallel,
        "CosineAnnealingLR": CosineAnnealingLR,
        "OneCycleLR": OneCycleLR,
        "model": model,
        "ddp": DistributedDataParallel(model),
        "optimizer": optimizer,
        "scheduler": CosineAnnealingLR(optimizer, 1000),
        "loader": _batches(STEPS, 4),
        "probe_loader": _batches(4, 16),
        "compute_loss": compute_loss,
        "total_steps": 1000,
        # Mesh of a sharded model.
        "device_type": "cpu",
        "replicas": 1,
        "shards": 1,
        # What is kept beside the model, and what is done with it now and then.
        "ema": deepcopy(model),
        "save": lambda model: torch.save(model.state_dict(), "model.pt"),
        "evaluate": lambda model: compute_loss(model, _batches(1, 16)[0]),
    }


def with_explorer() -> Space:
    """Return what a script has that uses hdet already."""
    space = plain()
    probe = hdet.probe(space["model"], space["probe_loader"], compute_loss)
    given = {"probe": probe, "model": space["ddp"]}
    scheduler = hdet.Explorer(space["optimizer"], space["scheduler"], **given)
    return {**space, "probe": probe, "scheduler": scheduler}


def trackers() -> Space:
    """Return a script that has a TensorBoard writer."""
    from torch.utils.tensorboard import SummaryWriter

    return {**plain(), "probe": lambda: 0.0, "writer": SummaryWriter("runs")}


def accelerate() -> Space:
    """Return a script with an Accelerator."""
    from accelerate import Accelerator

    space = plain()
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(space["model"])
    return {**space, "accelerator": accelerator, "net": space["model"], "model": model}


def fabric() -> Space:
    """Return a script with Lightning's Fabric."""
    from lightning.fabric import Fabric

    space = plain()
    return {**space, "fabric": Fabric(accelerator="cpu", devices=1), "net": space["model"]}


def lightning() -> Space:
    """Return a script with a LightningModule, and a Trainer of one process."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        """A small network."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 1)

        def loss(self, batch: list[Tensor]) -> Tensor:
            """Return the mean squared error."""
            return compute_loss(self.net, (batch[0], batch[1]))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            """Return the loss."""
            return self.loss(batch)

    def trainer(**given: Any) -> pl.Trainer:
        here = {"strategy": "auto", "devices": 1, "accelerator": "cpu", "max_epochs": 1}
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
        return pl.Trainer(**{**given, **here, **quiet, "enable_model_summary": False})

    return {**plain(), "Trainer": trainer, "Module": Module}


def fit(space: Space) -> None:
    """Train with what the page of Lightning has defined."""
    module = space["Module"]()
    module.configure_optimizers = MethodType(space["configure_optimizers"], module)
    rows = [torch.cat(parts) for parts in zip(*space["loader"], strict=True)]
    space["trainer"].fit(module, DataLoader(TensorDataset(*rows), batch_size=4))


def transformers() -> Space:
    """Return a script with a Trainer's parts, of the smallest GPT-2."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    config = GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    config.bos_token_id = config.eos_token_id = None
    args = TrainingArguments(
        "trained",
        max_steps=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    draw = generator(0, "documentation")
    rows = torch.randint(0, 16, (64, 8), generator=draw)
    examples = [{"input_ids": row, "labels": row} for row in rows]
    model = GPT2LMHeadModel(config)
    return {
        "model": model,
        "base": model,
        "args": args,
        "train": examples,
        "evaluation": examples[:8],
        "probe_dataset": examples[:32],
        "Trainer": Trainer,
        "LoraConfig": LoraConfig,
        "get_peft_model": get_peft_model,
    }


def jax() -> Space:
    """Return a script with optax."""
    import jax
    import jax.numpy as jnp
    import optax

    def loss_fn(params: Any, batch: Any) -> Any:
        x, y = batch
        return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

    def data(seed: int, count: int) -> Any:
        x = jax.random.normal(jax.random.key(seed), (count, 8))
        return x, jnp.sin(x).sum(1, keepdims=True)

    steps = 100
    return {
        "jax": jax,
        "optax": optax,
        "schedule": optax.cosine_decay_schedule(1e-2, steps),
        "steps": steps,
        "params": {"w": jnp.zeros((8, 1)), "b": jnp.zeros(1)},
        "loss_fn": loss_fn,
        "held_out": [data(1000 + k, 32) for k in range(8)],
        "batches": [data(t, 16) for t in range(steps)],
    }


# By page: the package that it needs, and the names; all others are about a plain loop.
_OF_FRAMEWORKS: dict[str, tuple[str, Callable[[], Space]]] = {
    "docs/guides/accelerate.md": ("accelerate", accelerate),
    "docs/guides/fabric.md": ("lightning", fabric),
    "docs/guides/fine-tuning.md": ("peft", transformers),
    "docs/guides/huggingface.md": ("peft", transformers),
    "docs/guides/jax.md": ("optax", jax),
    "docs/guides/lightning.md": ("lightning", lightning),
    "docs/guides/trackers.md": ("tensorboard", trackers),
}


def space_of(page: str, code: str) -> tuple[str, Callable[[], Space]]:
    """Return which package a page's code needs, and what makes the names that it uses.

    Code that does not make a scheduler of hdet's is of a script that has one already.
    """
    makes = re.search(r"hdet\.(Explorer|OneCycleAutoLR)\(", code)
    return _OF_FRAMEWORKS.get(page, ("torch", plain if makes else with_explorer))
