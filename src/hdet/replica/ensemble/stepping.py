"""Has the optimizer stepped when `scheduler.step()` is called?

A GradScaler skips optimizer steps whose gradients overflowed, and such a step must not count:
the schedule would run ahead of the training. Accelerate's wrapper calls a scheduler once per
process, and a loop that accumulates gradients may call it for every micro-batch: the schedule
would end too early. And a loop that steps once an epoch, as is usual with torch's
schedulers, would never come to a sync.

All this shows in how the calls of the optimizer and of the scheduler alternate. All replicas
see the same, since they share the gradients.
"""

import sys
import warnings
import weakref

from torch import Tensor
from torch.optim import Optimizer

from ...errors import where


class Stepping:
    """Watches the optimizer's steps between those of the scheduler, named `call` in errors."""

    _ROW = 3  # times that several calls per step, or steps per call, are put down to chance
    _SKIPS = 100  # more than a GradScaler needs to come down from its largest scale

    def __init__(self, optimizer: Optimizer, call: str) -> None:
        self._call = call
        self._warned = False
        self.forget()
        me = weakref.ref(self)

        def note(stepping: Optimizer, *_: object) -> None:
            watch = me()
            if watch is not None:
                watch._steps += 1
                # A fused optimizer is called all the same, and its kernel does nothing.
                watch._found_inf = getattr(stepping, "found_inf", None)
                watch._row = watch._row + 1 if watch._calls > 1 else 0
                watch._calls = 0

        optimizer.register_step_post_hook(note)

    def took_place(self, skipped: bool | None = None) -> bool:
        """Return whether the optimizer has stepped since this was last asked.

        The caller says so by `skipped`, or leaves it None to go by the optimizer's calls. Waits
        for the device only under a fused optimizer with a GradScaler, where nothing else knows.

        Raises:
            RuntimeError: if the scheduler is stepped several times per optimizer step, or
                the optimizer has not been seen to step for long.
        """
        self._calls += 1
        if self._calls > 1 and self._row >= self._ROW:
            raise RuntimeError(
                f"{where()}`{self._call}.step` is called several times for every optimizer "
                f"step, so the schedule would end early. {_remedy()}"
            )
        self._refuse_several_steps()
        if skipped is None:
            overflow = self._found_inf is not None and bool(self._found_inf)
            skipped = overflow or not self._steps
        self._steps, self._found_inf = 0, None
        self._skips = self._skips + 1 if skipped else 0
        if self._skips >= self._SKIPS:
            raise RuntimeError(
                f"{where()}`{self._call}.step` was called {self._skips} times in a row "
                f"without a step of the optimizer. If a GradScaler skips them all, the "
                f"gradients are not finite at any scale: load the last checkpoint and lower "
                f"the learning rate. If the optimizer steps unseen, in a captured CUDA graph, "
                f"call `step(loss, skipped=False)`."
            )
        return not skipped

    def _refuse_several_steps(self) -> None:
        """Warn of several optimizer steps since the last call; raise if it goes on."""
        self._several = self._several + 1 if self._steps > 1 else 0
        if self._steps < 2:
            return
        said = (
            f"{where()}`hdet.{self._call}.step` was called once for {self._steps} steps of the "
            f"optimizer: it counts optimizer steps, not epochs, and the replicas would hardly "
            f"ever be averaged. Call it after every `optimizer.step()`, and give the "
            f"schedule's length in optimizer steps too, as in `T_max=epochs * len(loader)`."
        )
        if self._several >= self._ROW:
            raise RuntimeError(said)
        if not self._warned:
            self._warned = True
            warnings.warn(said, stacklevel=5)

    def forget(self) -> None:
        """Begin anew, as after loading a checkpoint."""
        self._found_inf: Tensor | None = None
        self._steps = self._calls = self._row = self._several = self._skips = 0


def _remedy() -> str:
    """Say what to do where the scheduler is called more often than the optimizer steps."""
    prepared = (
        "Accelerate's AcceleratedScheduler calls it once per process: `prepare()` leaves it "
        "alone, so do not wrap it yourself, or make the Accelerator with "
        "`step_scheduler_with_optimizer=False`, so that one call is one step."
    )
    accumulated = (
        "Under gradient accumulation call `scheduler.step()` only where the optimizer really "
        "steps, and `scheduler.observe(loss)` for every micro-batch; or let Accelerate's "
        "`accumulate()` do it, with the optimizer passed to `prepare()`."
    )
    frame = sys._getframe()
    while frame is not None:
        if type(frame.f_locals.get("self")).__name__ == "AcceleratedScheduler":
            return prepared
        frame = frame.f_back
    return f"Call it once, after `optimizer.step()`. {accumulated}"
