"""What both schedulers share: losses between steps, and the replicas as one.

Between two syncs the replicas' weights differ, and `torch.distributed.checkpoint`, which takes
each tensor from another rank, would save a mixture of them. `converged` is the remedy.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsIndex

from torch import Tensor

from ...errors import where
from .ensemble import Ensemble
from .hosts import check_saving, only_accumulates, warn_of_missing_callback


class Converging(ABC):
    """A scheduler over an ensemble; a base of `OneCycleAutoLR` and `Explorer`."""

    _ensemble: Ensemble
    _introduced: bool
    _hosted = False  # whether a framework's callback of ours takes care of this
    # So Accelerate's `prepare()` does not wrap it, to step it once per process.
    _is_accelerate_prepared = True

    @property
    @abstractmethod
    def _apart(self) -> bool:
        """Whether replicas would differ, by their values or by their gradients."""

    @property
    def _exploring(self) -> bool:
        """Whether there are several replicas, and they differ."""
        return self._ensemble.size > 1 and self._apart

    @property
    @abstractmethod
    def _steps_done(self) -> int:
        """Optimizer steps so far."""

    @abstractmethod
    def _apply_base(self) -> None:
        """Set the base values, which belong to the averaged weights."""

    @abstractmethod
    def _apply(self) -> None:
        """Set this replica's values."""

    @abstractmethod
    def _agree(self) -> None:
        """Agree on values that rounding may have made different. Collective if need be."""

    def _introduce(self, step: int) -> None:
        """Compare the settings with the other replicas' before the first step. Collective."""
        if not self._hosted:
            warn_of_missing_callback(type(self).__name__)
        self._ensemble.introduce(step)
        self._introduced = True

    def _only_accumulates(self, loss: Tensor | float | None, skipped: bool | None) -> bool:
        """Return whether a step is a micro-batch of Accelerate's, and keep its loss then."""
        if skipped is not None or not only_accumulates():
            return False
        if loss is not None:
            self.observe(loss)
        return True

    def _notice_saving(self) -> None:
        """Warn where a framework saves one replica for all; refuse to save one shard."""
        if self._exploring:
            ensemble = self._ensemble
            if not ensemble.is_converged:
                ensemble.note_saving()
            split = max(ensemble.replicas.shape[1:], default=1) > 1
            check_saving(type(self).__name__, ensemble.is_converged, split)

    def _warn_of_another(self) -> None:
        """Warn if the state just loaded is another replica's own. Local."""
        other = self._ensemble.history.taken_from
        if other is not None and self._exploring:
            warnings.warn(
                f"{where()}`{type(self).__name__}.load_state_dict` got what replica {other} "
                f"saved of itself, outside `converged()`, and this is replica "
                f"{self._ensemble.rank}. Weights saved with it are that replica's, not the "
                f"mean. Save inside `with scheduler.converged():`, or load each rank's own.",
                stacklevel=3,
            )

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> str | tuple[Any, ...]:
        """Refuse to be copied or pickled while replicas differ.

        A copy would set the values of the original's optimizer and modules, and would not see
        that optimizer's steps.

        Raises:
            TypeError: if the replicas ever differ.
        """
        if self._exploring:
            raise TypeError(
                f"{where()}`{type(self).__name__}` cannot be copied or pickled: it belongs to "
                f"this process's optimizer and process group. Save `state_dict()`, make a new "
                f"one and load it."
            )
        return super().__reduce_ex__(protocol)

    def observe(self, loss: Tensor | float) -> None:
        """Add the loss of one micro-batch to this interval's mean, without a step. Local.

        Under gradient accumulation call it for every micro-batch, and `step()` without a loss
        once per optimizer step.

        Args:
            loss: as for `step`, and not divided by the number of micro-batches.

        Raises:
            ValueError: if a tensor has more than one element.
        """
        self._ensemble.meter.observe(loss)

    def converge(self) -> None:
        """Average the replicas now, whatever the step; `converged` is safer for saving.

        Collective: every rank calls it at the same step. Values and the losses of the
        interval stay as they are, and the replicas go on from the common weights. Does nothing
        with one replica, or if nothing is spread under shared gradients.

        Raises:
            RuntimeError: if a rank does not call it; on every rank, if all replicas are
                non-finite.
        """
        if self._apart:
            self._ensemble.require_connection()
        if self._exploring:
            self._ensemble.gather(self._steps_done, "`converge`")
            self._ensemble.average()
            self._agree()

    @contextmanager
    def converged(self, restore: bool = False) -> Iterator[None]:
        """Make the replicas one for a block: for saving, evaluating, exporting.

            with scheduler.converged():
                torch.distributed.checkpoint.save(...)

        Inside, the weights, the optimizer state that follows them and this scheduler's
        `state_dict` are the same on all replicas, and the base values are in place.
        Collective on entering: every rank enters, at the same step.

        Args:
            restore: what comes after. False, for saving: the replicas go on from the common
                weights, as a run that is resumed from what was saved does. True, for
                evaluating: each gets its own weights back, and training goes on as if
                nothing had happened; that needs one more copy of them meanwhile.

        Yields:
            Nothing. With one replica, or if nothing is spread under shared gradients, nothing
            is done around the block.

        Raises:
            RuntimeError: if a rank does not enter; on every rank, if all replicas are
                non-finite.
        """
        if self._apart:
            self._ensemble.require_connection()
        if not self._exploring:
            yield
            return
        with self._ensemble.converged(self._steps_done, restore):
            self._agree()
            self._apply_base()
            try:
                yield
            finally:
                self._apply()
