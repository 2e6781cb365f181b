"""hdet in a Lightning Trainer: `Trainer(callbacks=[HDETCallback()])`.

Lightning steps the scheduler that `configure_optimizers` returns, and that is all it does for
it. The callback does the rest:

    loss           each micro-batch's own, at its true scale, goes to `scheduler.observe`
    validation     sees the replicas' mean, by `converged(restore=True)`
    checkpoints    are written inside `converged()`: one file serves all ranks
    learning rate  LearningRateMonitor sees the base rate, not rank 0's own
    logs           each sync's numbers go to the Trainer's loggers, `hdet/lr/replica/3` ...
    end of fit     the replicas are one, at the base values

Where ranks may not meet any more, after an exception or in SLURM's signal handler, nothing here
is collective: a checkpoint that is written then has one replica's weights, and a warning.
"""

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ..errors import where
from ..replica import Explorer, OneCycleAutoLR
from .trackers import Tracker

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        # The same code under its older name.
        from pytorch_lightning import Callback, LightningModule, Trainer
    except ImportError as error:
        raise ImportError(
            "hdet.integrations.lightning needs Lightning 2.6 or newer: "
            'pip install "hdet[lightning]"'
        ) from error

_REMEDY = (
    'return {"optimizer": optimizer, "lr_scheduler": {"scheduler": hdet.Explorer(optimizer, '
    '...), "interval": "step"}} from `configure_optimizers`'
)
_BY_SIGNAL = "hpc_ckpt_"  # how the names begin of what Lightning saves when SLURM signals


class HDETCallback(Callback):  # pyright: ignore[reportGeneralTypeIssues]
    """Makes training, validation, checkpoints and logs right around `hdet.Explorer`.

    Before: `Trainer(...)`, and `{"scheduler": OneCycleLR(...), "interval": "step"}`
    After:  `Trainer(..., callbacks=[HDETCallback()])`, and `{"scheduler":
    hdet.Explorer(optimizer, OneCycleLR(...), probe=..., model=self.trainer.model),
    "interval": "step"}`

    `self.trainer.model` is the DistributedDataParallel wrapper by the time that Lightning calls
    `configure_optimizers`; Explorer needs it to try several rates. Under manual optimization
    give `model=self`, and call `self.lr_schedulers().step(loss)` after each optimizer step.
    `hdet.OneCycleAutoLR` can stand in Explorer's place.

    Collective, on every rank at the same step: the start of a validation inside `fit`, saving a
    checkpoint, and the end of `fit`. All else is local. With one process it does nothing.
    """

    def __init__(self) -> None:
        self._schedulers: list[Explorer | OneCycleAutoLR] = []
        self._inside: ExitStack | None = None  # the blocks in which all replicas are one
        self._ended = self._failed = False
        self._trainer: Trainer | None = None

    # --- before training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew for a `fit`, before its optimizers are made. Local.

        Args:
            trainer: whose `save_checkpoint` and LearningRateMonitors are wrapped.
            pl_module: not used.
            stage: only "fit" matters.
        """
        if stage != "fit":
            return
        self._leave()
        for scheduler in self._schedulers:
            # What it has set in modules is where the next one begins.
            scheduler._apply_base()
        self._schedulers, self._ended, self._failed = [], False, False
        if self._trainer is not trainer:
            self._trainer = trainer
            self._wrap(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the schedulers, and refuse what would be wrong. Local.

        Args:
            trainer: has the schedulers.
            pl_module: says who steps them.

        Raises:
            ValueError: if there is none, if Lightning would not step it after every optimizer
                step, if it could not do what it is set to, or under another strategy than ddp.
        """
        if trainer.world_size > 1 and not isinstance(trainer.model, DistributedDataParallel):
            strategy = type(trainer.strategy).__name__
            raise ValueError(
                f"{where()}`HDETCallback` does not work with {strategy}: a process may be no "
                f'replica with weights of its own there. Use `Trainer(strategy="ddp")`.'
            )
        self._schedulers = []
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, Explorer | OneCycleAutoLR):
                continue
            if pl_module.automatic_optimization:
                _refuse_other_intervals(config)
            elif isinstance(scheduler, Explorer):
                _refuse_to_part_inside(scheduler)
            scheduler._hosted = True
            self._schedulers.append(scheduler)
            if isinstance(scheduler, Explorer):
                scheduler._listeners.append(_Loggers(trainer))
        if not self._schedulers:
            raise ValueError(
                f"{where()}`HDETCallback` finds no hdet scheduler in this run: {_REMEDY}, or "
                f"take the callback out."
            )

    # --- in training

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        """Give a micro-batch's loss to the schedulers. Local; the device is not waited for.

        Under manual optimization there may be any number of losses, of any scale: the loop
        gives its own to `step(loss)`.

        Args:
            trainer: says by what the loss was divided, and scaled.
            pl_module: says whether Lightning optimizes.
            loss: as it goes into the backward pass.
        """
        if not pl_module.automatic_optimization:
            return
        loss = loss.detach() * trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = loss / scaler.scale(torch.ones_like(loss))
        for scheduler in self._schedulers:
            scheduler.observe(loss)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the replicas one, until the next `fit`. Collective.

        Args:
            trainer: is given what was found: of `callback_metrics` alone Lightning brings home
                to a notebook's process, which has no scheduler.
            pl_module: not used.
        """
        self._enter(restore=False)
        self._ended = True
        for number, scheduler in enumerate(self._schedulers):
            if isinstance(scheduler, Explorer):
                prefix = "hdet" if len(self._schedulers) == 1 else f"hdet/{number}"
                trainer.callback_metrics.update(_found(scheduler, prefix))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Note that the ranks cannot be expected to meet any more. Local.

        Args:
            trainer: not used.
            pl_module: not used.
            exception: not used.
        """
        self._failed = True
        if not self._ended:
            self._leave()

    # --- evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the replicas one while they are evaluated inside `fit`. Collective.

        Args:
            trainer: says whether it only checks that validation works; replicas are equal then.
            pl_module: not used.
        """
        if self._inside is None and not (self._failed or trainer.sanity_checking):
            self._enter(restore=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each replica its own weights back. Local.

        Args:
            trainer: not used.
            pl_module: not used.
        """
        if not self._ended:
            self._leave()

    # --- internals

    def _enter(self, restore: bool) -> None:
        with ExitStack() as stack:
            for scheduler in self._schedulers:
                stack.enter_context(scheduler.converged(restore=restore))
            self._inside = stack.pop_all()

    def _leave(self) -> None:
        inside, self._inside = self._inside, None
        if inside is not None:
            inside.close()

    def _wrap(self, trainer: Trainer) -> None:
        """Let the Trainer save, and its LearningRateMonitors look, at the replicas as one."""
        save = trainer.save_checkpoint

        def save_as_one(filepath: Any, *args: Any, **kwargs: Any) -> None:
            with ExitStack() as stack:
                if self._may_meet(Path(filepath).name):
                    for scheduler in self._schedulers:
                        stack.enter_context(scheduler.converged())
                save(filepath, *args, **kwargs)

        trainer.save_checkpoint = save_as_one
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            # By name: it may be that of either package.
            if any(kind.__name__ == "LearningRateMonitor" for kind in type(callback).__mro__):
                for hook in ("on_train_batch_start", "on_train_epoch_start"):
                    setattr(callback, hook, self._at_base(getattr(callback, hook)))

    def _may_meet(self, name: str) -> bool:
        """Return whether the replicas have to be made one for this file, and can be."""
        if not self._schedulers or self._inside is not None:
            return False
        by_signal = name.startswith(_BY_SIGNAL)
        if (self._failed or by_signal) and any(s._exploring for s in self._schedulers):
            when = "in a signal handler" if by_signal else "after an exception"
            warnings.warn(
                f"{where()}`HDETCallback`: {name} was saved {when}, where the ranks cannot "
                f"meet: it has the weights of rank 0's replica, not the mean. Resume from an "
                f"earlier checkpoint if there is one.",
                stacklevel=4,
            )
        return not (self._failed or by_signal)

    def _at_base(self, hook: Any) -> Any:
        """Return a monitor's hook that finds the base values in the optimizer."""

        def look(*args: Any, **kwargs: Any) -> None:
            for scheduler in self._schedulers:
                scheduler._apply_base()
            try:
                hook(*args, **kwargs)
            finally:
                for scheduler in self._schedulers if self._inside is None else ():
                    scheduler._apply()

        return look


class _Loggers(Tracker):
    """Logs to a Trainer's own loggers, which take numbers alone."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer

    def numbers(self, found: dict[str, float], step: int) -> None:
        for logger in self._trainer.loggers:
            logger.log_metrics(found, step=step)

    def words(self, event: str, step: int) -> None:
        pass


def _found(explorer: Explorer, prefix: str) -> dict[str, torch.Tensor]:
    """Return the rate found for each parameter group, and the base values, by flat names."""
    flat = explorer.metrics(flat=True)
    found = {name: value for name, value in flat.items() if name.endswith("/base")}
    found |= {f"hdet/found/{group}": rate for group, rate in enumerate(explorer.found())}
    return {name.replace("hdet", prefix, 1): torch.tensor(x) for name, x in found.items()}


def _refuse_other_intervals(config: Any) -> None:
    """Raise unless Lightning steps a scheduler once after each optimizer step."""
    found = {
        "interval": config.interval,
        "frequency": config.frequency,
        "reduce_on_plateau": config.reduce_on_plateau,
    }
    wanted = {"interval": "step", "frequency": 1, "reduce_on_plateau": False}
    wrong = {key: value for key, value in found.items() if value != wanted[key]}
    if wrong:
        raise ValueError(
            f"{where()}`HDETCallback`: {type(config.scheduler).__name__} has to be stepped "
            f"after every optimizer step, and its entry has {wrong}: {_REMEDY}."
        )


def _refuse_to_part_inside(explorer: Explorer) -> None:
    """Raise where replicas would part inside the wrapper's own forward pass."""
    if isinstance(explorer._model, DistributedDataParallel):
        raise ValueError(
            f"{where()}`Explorer(model=self.trainer.model)` does not work under manual "
            f"optimization, where it is stepped inside the wrapper's forward pass and no "
            f"replica can train alone: give `model=self`. The search then ends with the climb."
        )
