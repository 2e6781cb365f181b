"""Whether the optimizer has really stepped when the scheduler is told so.

Two things hide behind `scheduler.step()`. A GradScaler skips optimizer steps whose gradients
overflowed, and such a step is not to be counted: the schedule would run ahead of the
training, and a sync find fewer steps than its interval has. And Accelerate calls a scheduler
that it has prepared once per process, which would end the schedule N times too early.

Both show in how the calls of the optimizer and of the scheduler alternate. All replicas see
the same, since they share the gradients.
"""

import weakref

from torch import Tensor
from torch.optim import Optimizer

from ..errors import where


class Stepping:
    """Watches the optimizer's steps between those of the scheduler.

    Args:
        optimizer: whose steps are watched.
        call: the public name to put into errors.
    """

    _ROW = 3  # times that several calls per step are put down to chance
    _SKIPS = 100  # more than a GradScaler needs to come down from its largest scale

    def __init__(self, optimizer: Optimizer, call: str) -> None:
        self._call = call
        self._stepped = False
        self._found_inf: Tensor | None = None
        self._calls = self._row = self._skips = 0
        me = weakref.ref(self)

        def note(stepping: Optimizer, *_: object) -> None:
            watch = me()
            if watch is not None:
                watch._stepped = True
                # A fused optimizer is called all the same, and its kernel does nothing.
                watch._found_inf = getattr(stepping, "found_inf", None)
                watch._row = watch._row + 1 if watch._calls > 1 else 0
                watch._calls = 0

        optimizer.register_step_post_hook(note)

    def took_place(self, skipped: bool | None = None) -> bool:
        """Return whether the optimizer has stepped since this was last asked.

        Waits for the device only under a fused optimizer with a GradScaler, where nothing
        but the device knows.

        Args:
            skipped: what the caller knows; None to go by the optimizer's calls.

        Raises:
            RuntimeError: if the scheduler is stepped several times per optimizer step, or
                the optimizer has not been seen to step for long.
        """
        self._calls += 1
        if self._calls > 1 and self._row >= self._ROW:
            raise RuntimeError(
                f"{where()}`{self._call}.step` is called several times for every optimizer "
                f"step, so the schedule would end early. Call it once, after "
                f"`optimizer.step()`. Under Accelerate, do not pass the scheduler to "
                f"`prepare()`, or make the Accelerator with "
                f"`step_scheduler_with_optimizer=False`."
            )
        if skipped is None:
            overflow = self._found_inf is not None and bool(self._found_inf)
            skipped = overflow or not self._stepped
        self._stepped, self._found_inf = False, None
        self._skips = self._skips + 1 if skipped else 0
        if self._skips >= self._SKIPS:
            raise RuntimeError(
                f"{where()}`{self._call}.step` was called {self._skips} times in a row "
                f"without a step of the optimizer. If a GradScaler skips them all, the "
                f"gradients are not finite at any scale: load the last checkpoint and lower "
                f"the learning rate. If the optimizer steps where it can't be seen, in a "
                f"captured CUDA graph, say so by `step(loss, skipped=False)`."
            )
        return not skipped

    def forget(self) -> None:
        """Begin anew, as after loading a checkpoint."""
        self._stepped, self._found_inf = False, None
        self._calls = self._row = self._skips = 0
