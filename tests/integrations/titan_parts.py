"""torchtitan's own Trainer, on the CPU: a tiny Llama, and data that is made here.

torchtitan names its device when it is imported, and takes "cuda" where there is none. So it is
told of the CPU before its other modules ask, with what little of a device's module it calls.
"""

# pyright: reportMissingImports=false

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
import torchtitan.tools.utils as titan_utils
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

_MEMORY = SimpleNamespace(total_memory=2**30)
titan_utils.device_type = "cpu"
titan_utils.device_module = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
    set_device=lambda device: None,
    current_device=lambda: 0,
    device_count=lambda: 1,
    synchronize=lambda: None,
    get_device_name=lambda device: "cpu",
    get_device_properties=lambda device: _MEMORY,
    memory_stats=lambda device: {},
    reset_peak_memory_stats=lambda: None,
    empty_cache=lambda: None,
)

# ruff: noqa: E402
from torchtitan import trainer as titan_trainer
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.optimizer import (
    LRSchedulersContainer,
    ParamGroupConfig,  # noqa: F401
    default_adamw,
)
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.components.validate import Validator
from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.distributed import utils as titan_distributed
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.embedding import Embedding
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.rope import ComplexRoPE
from torchtitan.models.llama3 import (
    _EMBEDDING_INIT,
    _NORM_INIT,
    Llama3Model,
    _build_llama3_layers,
    _output_linear_init,
    parallelize_llama,
)
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer

from hdet.integrations.torchtitan import checks, explore  # noqa: F401

WORDS, WIDTH = 32, 8


class Words(BaseDataLoader):
    """Arithmetic sequences, the same again from the same place; some labels are left out."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        seed: int = 0
        infinite: bool = True

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int = 1,
        dp_rank: int = 0,
        seq_len: int = WIDTH,
        local_batch_size: int = 4,
        **kwargs: Any,
    ) -> None:
        self._seed, self._rank, self._ranks = config.seed, dp_rank, dp_world_size
        self._shape, self._drawn = (local_batch_size, seq_len), 0

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        while True:
            number = self._drawn * self._ranks + self._rank
            self._drawn += 1
            draw = torch.Generator().manual_seed(10**6 * self._seed + number)
            rows, width = self._shape
            start = torch.randint(0, WORDS, (rows, 1), generator=draw)
            stride = torch.randint(1, 4, (rows, 1), generator=draw)
            tokens = (start + torch.arange(width + 1) * stride) % WORDS
            labels = tokens[:, 1:].clone()
            # The ranks have different numbers of tokens with a loss.
            labels[: 1 + self._rank % 2, width // 2 :] = -100
            yield {"input": tokens[:, :-1].clone()}, labels

    def state_dict(self) -> dict[str, Any]:
        return {f"drawn{self._rank}": self._drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._drawn = state_dict[f"drawn{self._rank}"]


class NoTokenizer(BaseTokenizer):
    """None is needed."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        pass

    def __init__(self, config: Config, **kwargs: Any) -> None:
        super().__init__()

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        return []

    def decode(self, *args: Any, **kwargs: Any) -> str:
        return ""

    def get_vocab_size(self) -> int:
        return WORDS


def llama() -> ModelSpec:
    """Return a Llama of a few thousand weights, with the attention that the CPU has."""
    dim, heads = 16, 2
    layers = _build_llama3_layers(
        n_layers=1,
        dim=dim,
        n_heads=heads,
        hidden_dim=2 * dim,
        rope=ComplexRoPE.Config(dim=dim // heads, max_seq_len=WIDTH, theta=10_000),
        attn_backend="varlen",
    )
    for layer in layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    model = Llama3Model.Config(
        dim=dim,
        vocab_size=WORDS,
        tok_embeddings=Embedding.Config(
            num_embeddings=WORDS, embedding_dim=dim, param_init=_EMBEDDING_INIT
        ),
        norm=RMSNorm.Config(normalized_shape=dim, param_init=_NORM_INIT),
        lm_head=Linear.Config(
            in_features=dim, out_features=WORDS, param_init=_output_linear_init(dim)
        ),
        layers=layers,
    )
    return ModelSpec(
        name="llama3",
        flavor="tiny",
        model=model,
        parallelize_fn=parallelize_llama,
        pipelining_fn=None,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )


def flat(model: nn.Module) -> Tensor:
    """Return the weights of this rank's shards, copied."""
    parts: list[Any] = list(model.parameters())
    return torch.cat([p.to_local().detach().flatten() for p in parts]).clone()


def full(model: nn.Module) -> Tensor:
    """Return all weights, as a checkpoint has them. Collective."""
    parts = [p.full_tensor() for p in model.state_dict().values()]
    return torch.cat([p.detach().flatten() for p in parts])


class Saves(CheckpointManager):
    """Notes the weights that it saves."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        pass

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.seen: list[Tensor] = []

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if self._should_save(curr_step, last_step):
            self.seen.append(full(self.states["model"].model[0]))
        return super()._save(curr_step, last_step)


class Validates(Validator):
    """Notes the weights that it validates."""

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        pass

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.seen: list[Tensor] = []

    def validate(self, model_parts: list[nn.Module], step: int) -> None:
        self.seen.append(full(model_parts[0]))
        super().validate(model_parts, step)


class Watched(Trainer):
    """Notes each step's own loss and weights, and the rates that are logged."""

    checkpointer: Any
    validator: Any = None

    def __init__(self, config: Trainer.Config) -> None:
        # Only time limits, by a function that torch 2.13 does not have; and the end waits.
        titan_distributed.set_pg_timeouts = lambda **_: None
        titan_trainer.time = SimpleNamespace(sleep=lambda _: None, perf_counter=perf_counter)
        super().__init__(config)
        for module in self.model_parts[0].modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)  # all that gloo has
        self.seen: dict[str, list[Any]] = {"losses": [], "own": [], "rates": [], "logged": []}
        self._sum = self._tokens = 0.0
        metrics: Any = self.metrics_processor
        log = metrics.log

        def noted(*args: Any, extra_metrics: dict[str, Any]) -> None:
            self.seen["logged"].append(extra_metrics["lr/AdamW"])
            log(*args, extra_metrics=extra_metrics)

        metrics.log = noted

    def forward_backward_step(self, **batch: Any) -> Tensor:
        loss = super().forward_backward_step(**batch)
        self._sum += float(loss * batch["global_valid_tokens"])
        self._tokens += int((batch["labels"] != -100).sum())
        return loss

    def train_step(self, data_iterator: Iterator[Any]) -> None:
        explorer: Any = self.lr_schedulers.schedulers[0]
        self.seen["rates"].append((explorer.metrics()["base_lr"][0], explorer.get_last_lr()[0]))
        super().train_step(data_iterator)
        self.seen["losses"].append(self._sum / self._tokens)
        self.seen["own"].append(flat(self.model_parts[0]))
        self._sum = self._tokens = 0.0


def config_of(folder: str, steps: int, changes: dict[str, dict]) -> Trainer.Config:
    """Return the configuration of a run, whose ranks that are no replicas are shards."""
    config = Trainer.Config(
        model_spec=llama(),
        dump_folder=folder,
        tokenizer=NoTokenizer.Config(),
        dataloader=Words.Config(),
        loss=CrossEntropyLoss.Config(),
        optimizer=default_adamw(lr=1e-2),
        lr_scheduler=LRSchedulersContainer.Config(
            warmup_steps=4, total_steps=100, decay_ratio=0.5
        ),
        training=TrainingConfig(
            local_batch_size=4,
            seq_len=WIDTH,
            steps=steps,
            disable_cuda_graphs=True,
            mixed_precision_param="float32",
        ),
        parallelism=ParallelismConfig(
            data_parallel_replicate_degree=2, spmd_backend="partial_dtensor"
        ),
        activation_checkpoint=None,
        metrics=MetricsProcessor.Config(log_freq=1),
        checkpoint=Saves.Config(
            enable=True, interval=1000, last_save_model_only=False, keep_latest_k=0
        ),
        validator=Validates.Config(
            enable=False, freq=5, steps=2, dataloader=Words.Config(seed=1)
        ),
    )
    config.optimizer.implementation = "foreach"
    for name, values in changes.items():
        for key, value in values.items():
            setattr(getattr(config, name), key, value)
    return config
