"""`explore`: puts `hdet.Explorer` into a torchtitan Trainer that is about to train.

The Trainer steps its `lr_schedulers`, and that is all a container hears of. So `explore` also
goes around methods of this one trainer:

    forward_backward_step    adds up this rank's losses
    checkpointer.save        is done inside `converged()`: one copy of the weights serves all
    validator.validate       sees the replicas' mean, and training does not notice
    train                    leaves the replicas as one
"""

# pyright: reportMissingImports=false

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.trainer import Trainer

from ...replica import Explorer
from .checks import check_arguments
from .losses import ProbeBatches, StepLoss, make_probe
from .schedulers import ExplorerSchedulers


def explore(
    trainer: Trainer, probe: BaseDataLoader.Config | None = None, **settings: Any
) -> ExplorerSchedulers:
    """Let a torchtitan Trainer find its learning rate while it trains.

    Before: `trainer = config.build(); trainer.train()`
    After:  `trainer = config.build(); explore(trainer, dataloader_config); trainer.train()`

    Call it on every rank. The schedule stays that of `config.lr_scheduler`; the optimizer's
    `lr` is a guess. Replicas are `parallelism.data_parallel_replicate_degree`. FSDP2's
    replicas cannot train apart, so that the search for the rate ends with its climb.

    Checkpoints and validation are those of all replicas averaged, logs tell the base rate, and
    a run that is loaded goes on as if never stopped. Saving and validating are collective.

    Args:
        trainer: before `train()`.
        probe: a configuration of a dataloader on which all replicas are compared, at one
            forward pass of `training.local_batch_size` at each sync. Data that is neither
            trained nor judged on works best. Without it there is no search unless
            `search=True`, and the replicas' own losses are compared.
        **settings: of `hdet.Explorer`, such as `explore`, `seed` and `freeze_after`.
            `sync_every`, in optimizer steps, is a hundredth of the schedule by default.

    Returns:
        The new `trainer.lr_schedulers`; its `schedulers` are the Explorers.

    Raises:
        TypeError: if an argument is of another type, or a setting is not one of Explorer's.
        ValueError: naming argument, rule, value and remedy, on every rank: without replicas,
            or under pipeline or context parallelism.
    """
    check_arguments(trainer, probe, settings)
    config = trainer.config
    total = config.lr_scheduler.total_steps or config.training.steps
    loss, batches, score = StepLoss(), None, None
    if probe is not None:
        batches = ProbeBatches(functools.partial(_loader, trainer, probe))
        score = make_probe(trainer, batches)

    def wrap(scheduler: LRScheduler) -> Explorer:
        explorer = Explorer(
            scheduler.optimizer,
            scheduler,
            probe=score,
            model=trainer.model_parts[0],
            **{"sync_every": max(1, total // 100), **settings},
        )
        explorer._hosted = True
        return explorer

    schedulers = ExplorerSchedulers(trainer.lr_schedulers.schedulers, wrap, loss, batches)
    trainer.lr_schedulers = schedulers
    _put_around(trainer, "forward_backward_step", functools.partial(_add_loss, loss))
    _put_around(trainer, "train", functools.partial(_train, schedulers))
    checkpointer: Any = trainer.checkpointer
    if checkpointer.enable:
        checkpointer.states["lr_scheduler"] = schedulers
        _put_around(checkpointer, "save", functools.partial(_save, schedulers, checkpointer))
    if config.validator.enable:
        validate = functools.partial(_validate, schedulers, checkpointer)
        _put_around(trainer.validator, "validate", validate)
    return schedulers


def _loader(trainer: Trainer, probe: BaseDataLoader.Config) -> BaseDataLoader:
    training = trainer.config.training
    return probe.build(
        dp_world_size=1,
        dp_rank=0,
        tokenizer=trainer.tokenizer,
        seq_len=training.seq_len,
        local_batch_size=training.local_batch_size,
    )


def _add_loss(
    loss: StepLoss,
    run: Callable[..., Tensor],
    *,
    input_dict: dict[str, Tensor],
    labels: Tensor,
    global_valid_tokens: Tensor,
) -> Tensor:
    found = run(input_dict=input_dict, labels=labels, global_valid_tokens=global_valid_tokens)
    loss.add(found, labels, global_valid_tokens)
    return found


def _train(schedulers: ExplorerSchedulers, train: Callable[[], None]) -> None:
    train()
    schedulers.converge()


def _save(
    schedulers: ExplorerSchedulers,
    checkpointer: Any,
    save: Callable[..., bool],
    curr_step: int,
    last_step: bool = False,
) -> bool:
    # Most calls save nothing, and the replicas are to stay apart then.
    if not checkpointer._should_save(curr_step, last_step):
        return save(curr_step, last_step)
    with schedulers.converged():
        return save(curr_step, last_step)


def _validate(
    schedulers: ExplorerSchedulers, checkpointer: Any, validate: Callable[..., None], *args: Any
) -> None:
    # Weights that are still being staged for a checkpoint must not be written to.
    checkpointer.maybe_wait_for_staging()
    with schedulers.converged(restore=True):
        validate(*args)


def _put_around(owner: Any, name: str, method: Callable[..., Any]) -> None:
    """Put a method around one of this object's, which becomes its first argument."""
    inner = getattr(owner, name)
    setattr(owner, name, functools.wraps(inner)(functools.partial(method, inner)))
