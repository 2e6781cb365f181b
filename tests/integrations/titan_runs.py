"""Runs of torchtitan's Trainer that its tests read: all in one set of ranks.

Importing torchtitan takes seconds, so the ranks import it once, do every run in turn, and
return what each has seen; a run that fails returns its error.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import copy
import logging
import os
import traceback
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import checkpoint

from tests.integrations.titan_parts import (
    ParamGroupConfig,
    Watched,
    Words,
    checks,
    config_of,
    explore,
    flat,
    full,
)
from tests.integrations.titan_ranks import SAVED, STEPS, SYNC

ROUND: dict[str, Any] = {"sync_every": SYNC, "search": False}
EVERY: dict[str, Any] = {"checkpoint": {"interval": SAVED}}


def make(folder: str, steps: int = STEPS, change: Any = None, **changes: dict) -> Watched:
    config = config_of(folder, steps, changes)
    if change is not None:
        change(config)
    return Watched(config)


def train(trainer: Watched, **settings: Any) -> dict[str, Any]:
    """Train, and return what was seen."""
    schedulers = explore(trainer, Words.Config(seed=2), **(ROUND | settings))
    trainer.train()
    trainer.checkpointer.maybe_wait_for_saving()
    trainer.close()
    return {
        **trainer.seen,
        "validated": getattr(trainer.validator, "seen", []),
        "saved": trainer.checkpointer.seen,
        "final": flat(trainer.model_parts[0]),
        "metrics": [e.metrics() for e in schedulers.schedulers],
        "tokens": trainer.ntokens_seen,
    }


def everything(folder: str) -> dict[str, Any]:
    return train(make(folder, validator={"enable": True}, **EVERY))


def unwatched(folder: str) -> dict[str, Any]:
    """The same, without validation."""
    return train(make(folder, **EVERY))


def accumulation(folder: str) -> dict[str, Any]:
    ranks = dist.get_world_size()
    return train(make(folder, 2 * SYNC, training={"global_batch_size": 8 * ranks}))


def search(folder: str) -> dict[str, Any]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("hdet")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        return {**train(make(folder, 130), search=None), "lines": lines}
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _two(config: Any) -> None:
    one = config.optimizer.param_groups[0].optimizer_kwargs
    config.optimizer.param_groups = [
        ParamGroupConfig(pattern="norm", optimizer_name="Adam", optimizer_kwargs=one),
        ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs=one),
    ]


def resumed(folder: str, mode: str = "disabled", change: Any = None) -> dict[str, Any]:
    """Train with a checkpoint midway, and train again from there."""
    changes: dict[str, Any] = {"checkpoint": {"interval": SAVED, "async_mode": mode}}
    straight = train(make(folder, change=change, **changes))
    changes["checkpoint"]["load_step"] = SAVED
    again = train(make(folder, change=change, **changes))
    return {"straight": straight, "again": again}


def two_optimizers(folder: str) -> dict[str, Any]:
    return resumed(folder, change=_two)


def resumed_async(folder: str) -> dict[str, Any]:
    return resumed(folder, "async")


def other_mesh(folder: str, of: str) -> dict[str, Any]:
    """Go on from the checkpoint of another mesh; its data cannot, as torchtitan says."""
    excluded = {"initial_load_path": of, "exclude_from_loading": ["dataloader"]}
    excluded["initial_load_model_only"] = False
    trainer = make(folder, checkpoint=excluded)
    schedulers = explore(trainer, Words.Config(seed=2), **ROUND)
    trainer.checkpointer.load()
    found = schedulers.schedulers[0].metrics()
    return {"loaded": full(trainer.model_parts[0]), "metrics": found, "step": trainer.step}


def without(folder: str, of: str) -> dict[str, Any]:
    """Go on without hdet from a checkpoint of a run that had it."""
    excluded = {"initial_load_path": of, "initial_load_model_only": False}
    trainer = make(folder, checkpoint=excluded)
    trainer.checkpointer.load()
    trainer.close()
    scheduler: Any = trainer.lr_schedulers.schedulers[0]
    return {
        "step": trainer.step,
        "last_epoch": scheduler.last_epoch,
        "scheduled": float(scheduler.get_last_lr()[0]),
        "plain": scheduler.base_lrs[0] * scheduler.lr_lambdas[0](SAVED),
    }


def refused(folder: str) -> dict[str, str]:
    """Return what is said to what cannot work."""
    trainer = make(folder)
    alone = SimpleNamespace(dp_replicate=1)
    with_torchft = copy.copy(trainer)
    with_torchft.ft_manager = SimpleNamespace(enabled=True)  # pyright: ignore[reportAttributeAccessIssue]
    pipeline = SimpleNamespace(dp_replicate=2, pp_enabled=True, pp=2, cp=1)
    context = SimpleNamespace(dp_replicate=2, pp_enabled=False, pp=1, cp_enabled=True, cp=2)
    calls = {
        "no trainer": lambda: explore([]),  # pyright: ignore[reportArgumentType]
        "no config": lambda: explore(trainer, []),  # pyright: ignore[reportArgumentType]
        "no setting": lambda: explore(trainer, window=3, optimizer=None),
        "no replicas": lambda: checks._check_processes(alone),
        "pipeline": lambda: checks._check_processes(pipeline),
        "context": lambda: checks._check_processes(context),
        "torchft": lambda: explore(with_torchft),
        "twice": lambda: (explore(trainer, sync_every=SYNC), explore(trainer)),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
        except (TypeError, ValueError) as error:
            said[name] = str(error)
    trainer.close()
    return said


def file_of(folder: str, step: int) -> torch.Tensor:
    """Return all weights that a checkpoint holds, in the model's order."""
    trainer = make(f"{folder}-read")
    weights = {k: torch.empty(v.shape) for k, v in trainer.model_parts[0].state_dict().items()}
    checkpoint.state_dict_loader.load(weights, checkpoint_id=f"{folder}/checkpoint/step-{step}")
    trainer.close()
    return torch.cat([value.flatten() for value in weights.values()])


def all_runs(folder: str, names: list[str], seed: str | None = None) -> dict[str, Any]:
    """Do the runs of these names."""
    os.environ |= {"RANK": str(dist.get_rank()), "LOCAL_RANK": "0"}
    os.environ["WORLD_SIZE"] = str(dist.get_world_size())
    logging.getLogger().setLevel(logging.ERROR)
    found: dict[str, Any] = {}
    for name in names:
        arguments = (seed,) if name in ("other_mesh", "without") else ()
        try:
            found[name] = globals()[name](f"{folder}/{name}", *arguments)
            if name in ("everything", "resumed", "resumed_async"):
                found[name]["file"] = file_of(f"{folder}/{name}", SAVED)
        except Exception:
            found[name] = traceback.format_exc()
            break
    return found
