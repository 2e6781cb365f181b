"""What `explore` refuses, with the remedy: on every rank, and before any collective."""

# pyright: reportMissingImports=false

import inspect
from typing import Any

from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.trainer import Trainer

from ...errors import require, where
from ...replica import Explorer
from .schedulers import ExplorerSchedulers

_CALL = "explore"
# What `explore` itself gives to Explorer.
_GIVEN = {"self", "optimizer", "scheduler", "probe", "model", "process_group"}


def check_arguments(trainer: Any, probe: Any, settings: dict[str, Any]) -> None:
    """Raise for an argument of `explore` that breaks its rule.

    Args:
        trainer: see `explore`.
        probe: see `explore`.
        settings: see `explore`.

    Raises:
        TypeError: if an argument is of another type, or a setting is not one of Explorer's.
        ValueError: for anything else.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"{where()}`{_CALL}(trainer={type(trainer).__name__})` must be a torchtitan "
            f"Trainer: make it first, with `trainer = config.build()`."
        )
    if probe is not None and not isinstance(probe, BaseDataLoader.Config):
        raise TypeError(
            f"{where()}`{_CALL}(probe={type(probe).__name__})` must be the configuration of a "
            f'dataloader, as HuggingFaceTextDataLoader.Config(dataset="c4_validation") is.'
        )
    allowed = inspect.signature(Explorer.__init__).parameters.keys() - _GIVEN
    if unknown := sorted(settings.keys() - allowed):
        raise TypeError(
            f"{where()}`{_CALL}` has no setting {', '.join(unknown)}: there are "
            f"{', '.join(sorted(allowed))}. Optimizer and schedule are the Trainer's."
        )
    _check_trainer(trainer)


def _check_trainer(trainer: Any) -> None:
    require(
        not isinstance(trainer.lr_schedulers, ExplorerSchedulers),
        _CALL,
        "trainer.lr_schedulers",
        "ExplorerSchedulers",
        "must be torchtitan's own",
        "call it once for each Trainer",
    )
    _check_processes(trainer.parallel_dims)
    require(
        not getattr(getattr(trainer, "ft_manager", None), "enabled", False),
        _CALL,
        "fault_tolerance.enable",
        True,
        "must be off, since replicas cannot come and go while they are compared",
        "restart from a checkpoint with another data_parallel_replicate_degree",
    )
    checkpointer = trainer.checkpointer
    require(
        not checkpointer.enable or isinstance(checkpointer, CheckpointManager),
        _CALL,
        "trainer.checkpointer",
        type(checkpointer).__name__,
        "must be torchtitan's CheckpointManager, whose saves are seen coming",
        "use `checkpoint=CheckpointManager.Config(...)`",
    )


def _check_processes(dims: Any) -> None:
    """Refuse processes among which there are no replicas, or none that can be compared."""
    require(
        dims.dp_replicate > 1,
        _CALL,
        "parallelism.data_parallel_replicate_degree",
        dims.dp_replicate,
        "must be at least 2, since replicas are compared",
        "set it to 4 or 8, and data_parallel_shard_degree to the processes of one replica",
    )
    require(
        not dims.pp_enabled,
        _CALL,
        "parallelism.pipeline_parallel_degree",
        dims.pp,
        "must be 1, since only the last stage knows a loss",
        "shard the replicas by data_parallel_shard_degree",
    )
    require(
        not dims.cp_enabled,
        _CALL,
        "parallelism.context_parallel_degree",
        dims.cp,
        "must be 1, since each process has the loss of a part of a text only",
        "shard the replicas by data_parallel_shard_degree",
    )
