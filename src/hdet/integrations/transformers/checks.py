"""What `HDETCallback` refuses, with the remedy: on every rank, and before any collective."""

import inspect
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import Trainer
from transformers.optimization import GreedyLR

from ...errors import require, where
from ...replica import Explorer

_CALL = "HDETCallback"
# What the callback itself gives to Explorer.
_GIVEN = {"self", "optimizer", "scheduler", "probe", "model", "process_group"}
_WHOLE = ("NO", "MULTI_")  # each process is one replica
_PLAIN = "train with DistributedDataParallel, or give Explorer to your own loop"


def check_arguments(trainer: Any, dataset: Any, settings: dict[str, Any]) -> None:
    """Raise for an argument of `HDETCallback` that breaks its rule.

    Raises:
        TypeError: if the trainer is not a Trainer, or a setting is not one of Explorer's.
        ValueError: for anything else.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"{where()}`{_CALL}(trainer={type(trainer).__name__})` must be a transformers "
            f"Trainer: make it first, then `trainer.add_callback(HDETCallback(trainer, data))`."
        )
    allowed = inspect.signature(Explorer.__init__).parameters.keys() - _GIVEN
    if unknown := sorted(settings.keys() - allowed):
        raise TypeError(
            f"{where()}`{_CALL}` has no setting {', '.join(unknown)}: there are "
            f"{', '.join(sorted(allowed))}. Optimizer and schedule are the Trainer's."
        )
    usable = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    rule = "must be a dataset with a length, and not empty"
    kind = type(dataset).__name__
    remedy = "hold some examples back from training, a few hundred at least"
    require(usable and len(dataset) > 0, _CALL, "probe_dataset", kind, rule, remedy)
    _check_processes(trainer)
    require(
        not trainer.args.enable_jit_checkpoint,
        _CALL,
        "args.enable_jit_checkpoint",
        True,
        "would save one replica at a step of its own",
        "leave it out and save more often, by `save_steps`",
    )


def _check_processes(trainer: Trainer) -> None:
    """Refuse processes that are parts of a replica."""
    kind = str(trainer.accelerator.distributed_type.value)
    require(
        kind.startswith(_WHOLE),
        _CALL,
        "accelerator.distributed_type",
        kind,
        "must have the whole model in every process",
        _PLAIN,
    )
    parts = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
    whole = parts == 1 and not trainer.is_distributed_loading_by_transformers
    rule = "must have the whole model and whole examples in every process"
    require(whole, _CALL, "parallelism", parts, rule, _PLAIN)


def check_scheduler(scheduler: Any) -> None:
    """Raise a `ValueError` for a schedule that does not go by optimizer steps."""
    kind = type(scheduler).__name__
    require(
        not isinstance(scheduler, Explorer),
        _CALL,
        "trainer.lr_scheduler",
        kind,
        "must be a plain schedule",
        "the callback makes the Explorer: give it the settings, and the Trainer the schedule",
    )
    require(
        not isinstance(scheduler, ReduceLROnPlateau | GreedyLR),
        _CALL,
        "trainer.lr_scheduler",
        kind,
        "must not wait for evaluations",
        'choose another, such as `lr_scheduler_type="cosine"`',
    )
