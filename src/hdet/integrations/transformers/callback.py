"""`HDETCallback`: `hdet.Explorer` in a Trainer.

Events alone do not do it. A callback sees neither losses nor DDP wrapper, it cannot put a
scheduler in the place of the Trainer's, and another callback may ask for a checkpoint after it
was called. So this one also goes around public methods of its trainer, and of no other:

    accelerator.prepare_model       shows the DDP wrapper in time
    create_scheduler                puts `Explorer` around the Trainer's own schedule
    training_step                   adds up the loss of this rank's micro-batches
    evaluate, predict, save_model   make the replicas one; the next training step parts them
    log                             tells the base rate in place of this replica's

Source: the Trainer of transformers 5.24, on whose order of events this relies.
"""

import functools
import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ...errors import where
from ...replica import Explorer
from .checks import check_arguments, check_scheduler
from .loggers import TrainerLoggers
from .losses import StepLoss
from .probe import make_probe

_CALL = "HDETCallback"
_CUT_SHORT = 3  # trials in a row that an evaluation ends, before it is told

log = logging.getLogger("hdet")


class HDETCallback(TrainerCallback):
    """Tunes the learning rate, and any other scalars, while a Hugging Face Trainer trains.

        trainer.add_callback(HDETCallback(trainer, probe_dataset))

    Make it on every rank, after the Trainer and before `trainer.train()`. The schedule stays
    the Trainer's own, or the one of its `optimizers`; the rate that you gave is a guess.
    Checkpoints, evaluations and the model at the end are those of all replicas averaged, the
    logs tell the base rate, and `resume_from_checkpoint` goes on as if never stopped. With one
    process the Trainer trains as without it, bit for bit.

    Whoever calls `evaluate`, `predict` or `save_model` during training, from a callback of
    their own, calls it on every rank: these are collective then.

    Args:
        trainer: the Trainer that the callback is added to, of one process per device.
        probe_dataset: examples like those of `eval_dataset`, with a length, on which all
            replicas are compared. Data that is neither trained nor judged on works best. At
            each sync `args.per_device_eval_batch_size` of them are drawn: several times the
            training batch gives a clear signal.
        **settings: of `hdet.Explorer`, such as `explore` and `freeze_after`. `sync_every`,
            in optimizer steps, is a hundredth of the run by default.

    Attributes:
        explorer: the `Explorer`, for `metrics()` and `found()`; None before `train()`.

    Raises:
        TypeError: if `trainer` is not a Trainer, or a setting is not one of Explorer's.
        ValueError: naming argument, rule, value and remedy, on every rank: for a probe that is
            empty or has no length, or a Trainer whose replicas are not whole processes
            (FSDP, DeepSpeed, tensor and context parallelism).
    """

    def __init__(self, trainer: Trainer, probe_dataset: Any, **settings: Any) -> None:
        check_arguments(trainer, probe_dataset, settings)
        self.explorer: Explorer | None = None
        self._trainer: Any = trainer  # most of its attributes may be None by their types
        self._dataset, self._settings = probe_dataset, settings
        self._loss = StepLoss(trainer)
        self._rate = 0.0
        self._block: AbstractContextManager[None] | None = None  # `converged()`, while inside
        self._restores = False  # whether that block gives each replica its own weights back
        self._cut_short = 0
        self._prepared: nn.Module = self._trainer.model
        _put_around(trainer.accelerator, "prepare_model", self._prepare_model)
        _put_around(trainer, "create_scheduler", self._create_scheduler)
        _put_around(trainer, "training_step", self._training_step)
        _put_around(trainer, "log", self._log)
        for name in ("evaluate", "predict"):
            _put_around(trainer, name, functools.partial(self._as_one, restore=True))
        _put_around(trainer, "save_model", functools.partial(self._as_one, restore=False))

    # --- around the trainer's methods

    def _create_scheduler(
        self, create: Callable[..., Any], num_training_steps: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Put an Explorer around what is created: a checkpoint is loaded right afterwards."""
        scheduler = create(num_training_steps, *args, **kwargs)
        if not self._trainer.is_in_train or scheduler is self.explorer:
            return scheduler
        self._part()
        trainer = self._trainer
        if self not in trainer.callback_handler.callbacks:
            raise RuntimeError(
                f"{where()}`{_CALL}` was made for this Trainer, and not added to it: "
                f"`trainer.add_callback(HDETCallback(trainer, ...))`."
            )
        check_scheduler(scheduler)
        if trainer.args.world_size == 1:
            log.warning("%s: one process has no replicas to compare, so no value moves: start "
                        "the script with torchrun --nproc-per-node", _CALL)  # fmt: skip
        self.explorer = trainer.lr_scheduler = Explorer(
            trainer.optimizer,
            scheduler,
            probe=make_probe(trainer, self._dataset),
            model=self._wrapper(),
            **{"sync_every": max(1, num_training_steps // 100), **self._settings},
        )
        self.explorer._hosted = True
        self.explorer._listeners.append(TrainerLoggers(trainer))
        return self.explorer

    def _prepare_model(
        self, prepare: Callable[..., nn.Module], model: nn.Module, *args: Any, **kwargs: Any
    ) -> nn.Module:
        """Keep the wrapped model: the Trainer tells of it only after `create_scheduler`."""
        self._prepared = prepare(model, *args, **kwargs)
        return self._prepared

    def _wrapper(self) -> nn.Module:
        """Return the model with its DistributedDataParallel; alone, the model."""
        trainer = self._trainer
        for model in (self._prepared, trainer.model_wrapped):
            if any(isinstance(part, DistributedDataParallel) for part in model.modules()):
                return model
        if trainer.args.world_size > 1:
            raise RuntimeError(
                f"{where()}`{_CALL}` finds no DistributedDataParallel around the model, so "
                f"there are no replicas to compare: make it before `train()`, and let the "
                f"Trainer wrap the model. After a `trainer.evaluate()` or `predict()` the "
                f"Trainer wraps none, and each process would train alone: use "
                f"`eval_on_start=True`."
            )
        return trainer.model

    def _training_step(
        self,
        step: Callable[..., Tensor],
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        self._part()
        loss = step(model, inputs, num_items_in_batch)
        self._loss.add(loss, inputs, num_items_in_batch)
        return loss

    def _as_one(
        self, call: Callable[..., Any], *args: Any, restore: bool, **kwargs: Any
    ) -> Any:
        """Make the replicas one first, if they train. Collective then."""
        if self._trainer.is_in_train:
            self._meet(restore)
        return call(*args, **kwargs)

    def _log(
        self, log: Callable[..., None], logs: dict[str, float], *args: Any, **kwargs: Any
    ) -> None:
        if self.explorer is not None and "learning_rate" in logs:
            logs["learning_rate"] = self._rate
        log(logs, *args, **kwargs)

    # --- events

    def on_pre_optimizer_step(self, *event: Any, **kwargs: Any) -> None:
        """Hand the step's loss to Explorer, and note the rate that the logs are to tell.

        Args:
            *event: arguments, state and control of the Trainer.
            **kwargs: its objects.
        """
        explorer = self._of_this_run()
        explorer.observe(self._loss.take())
        self._rate = float(explorer.metrics()["base_lr"][0])

    def on_optimizer_step(self, *event: Any, **kwargs: Any) -> None:
        """Tell Explorer of a step that a GradScaler skipped; of these the Trainer does not.

        Args:
            *event: arguments, state and control of the Trainer.
            **kwargs: its objects.
        """
        if self._trainer.accelerator.optimizer_step_was_skipped:
            self._of_this_run().step()

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Make the replicas one at the end of training, before a best model is loaded.

        Args:
            args: of the Trainer.
            state: tells how many steps are done.
            control: tells whether this epoch is the last.
            **kwargs: the Trainer's objects.
        """
        if control.should_training_stop or state.global_step >= state.max_steps:
            self._meet()

    def on_train_end(self, *event: Any, **kwargs: Any) -> None:
        """Make the replicas one, if they are not; they stay so, with the base values.

        Args:
            *event: arguments, state and control of the Trainer.
            **kwargs: its objects.
        """
        self._meet()

    # --- one, or apart

    def _of_this_run(self) -> Explorer:
        if self.explorer is None:
            raise RuntimeError(
                f"{where()}`{_CALL}` was made for another Trainer, or too late: make it for "
                f"this one, before `train()`."
            )
        return self.explorer

    def _meet(self, restore: bool = False) -> None:
        """Enter `converged()`, unless that is where we are. Collective.

        An evaluation is to leave no trace, and a run that is saved goes on as one that is
        resumed. So where a checkpoint follows an evaluation, the block is entered again.
        """
        if self._block is not None:
            if restore or not self._restores:
                return
            self._part()
        explorer = self._of_this_run()
        if not restore:
            self._warn_of_trials_cut_short(explorer)
        block = explorer.converged(restore=restore)
        block.__enter__()
        self._block, self._restores = block, restore

    def _warn_of_trials_cut_short(self, explorer: Explorer) -> None:
        in_trial = explorer.metrics()["phase"] == "trial"
        self._cut_short = self._cut_short + 1 if in_trial else 0
        if self._cut_short == _CUT_SHORT:
            warnings.warn(
                f"{where()}`{_CALL}`: saving has ended {_CUT_SHORT} trials of the search, "
                f"which begin anew each time. Leave more optimizer steps between two "
                f"checkpoints: `save_steps` of 50 or more.",
                stacklevel=4,
            )

    def _part(self) -> None:
        """Leave `converged()`. Local."""
        if self._block is not None:
            block, self._block = self._block, None
            block.__exit__(None, None, None)


def _put_around(owner: Any, name: str, method: Callable[..., Any]) -> None:
    """Put a method around one of this object's, which becomes its first argument."""
    inner = getattr(owner, name)
    setattr(owner, name, functools.wraps(inner)(functools.partial(method, inner)))
