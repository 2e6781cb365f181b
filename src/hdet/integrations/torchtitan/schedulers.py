"""What stands in the Trainer's `lr_schedulers`: an `Explorer` for each of its optimizers.

torchtitan's own container saves nothing but `last_epoch`, from which a schedule that is a
function of the step can be made again. A rate that was found cannot, so this one saves all
that the Explorers know, averaged weights included, as entries that
`torch.distributed.checkpoint` shards and reshards.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.optim.lr_scheduler import LRScheduler
from torchtitan.components.optimizer import LRSchedulersContainer

from ...replica import Explorer
from .losses import ProbeBatches, StepLoss


class ExplorerSchedulers(LRSchedulersContainer):
    """A `LRSchedulersContainer` whose schedules are followed around the rates found.

    `explore` makes it. `torchtitan.components.optimizer.LRSchedulersContainer` says what the
    Trainer calls, and when.

    Args:
        schedulers: torchtitan's own, one for each optimizer.
        wrap: makes the Explorer for one of them.
        loss: adds up this rank's losses.
        batches: what the probe draws from, whose place is saved; None without a probe.

    Attributes:
        schedulers: the Explorers, for `metrics()` and `found()`.
    """

    def __init__(
        self,
        schedulers: list[LRScheduler],
        wrap: Callable[[LRScheduler], Explorer],
        loss: StepLoss,
        batches: ProbeBatches | None,
    ) -> None:
        self.schedulers: list[Explorer] = []  # pyright: ignore[reportIncompatibleVariableOverride]
        for scheduler in schedulers:
            self.schedulers.append(wrap(scheduler))
        self._loss, self._batches = loss, batches

    def step(self) -> None:
        """Count an optimizer step, with this rank's own loss of it. Collective at syncs."""
        loss = self._loss.take()
        for explorer in self.schedulers:
            explorer.step(loss)

    def get_metrics(self) -> dict[str, float]:
        """Return the base rates under torchtitan's names, which are the same on every rank."""
        metrics = {}
        for explorer in self.schedulers:
            name = f"lr/{type(explorer.optimizer).__name__}"
            rates = explorer.metrics()["base_lr"]
            for k, rate in enumerate(rates):
                metrics[name if len(rates) == 1 else f"{name}/{k}"] = float(rate)
        return metrics

    @contextmanager
    def converged(self, restore: bool = False) -> Iterator[None]:
        """Make the replicas one for a block: for saving, evaluating, exporting. Collective.

        Args:
            restore: whether each replica gets its own weights back afterwards, as after an
                evaluation.

        Yields:
            Nothing.
        """
        with ExitStack() as stack:
            for explorer in self.schedulers:
                stack.enter_context(explorer.converged(restore))
            yield

    def converge(self) -> None:
        """Make the replicas one, and leave the base values in place. Collective."""
        for explorer in self.schedulers:
            explorer.converge()
            explorer._apply_base()

    def state_dict(self) -> dict[str, Any]:
        """Return all that is known; inside `converged()` the same on every rank. Local.

        A Trainer without hdet goes on from it at its own rates: `last_epoch` is torchtitan's.
        """
        return {
            "last_epoch": self.schedulers[0].last_epoch,
            "explorers": {str(k): e.state_dict() for k, e in enumerate(self.schedulers)},
            "probe": b"" if self._batches is None else self._batches.place,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`, also with another number of replicas or shards. Local.

        Args:
            state_dict: from `state_dict`, with as many optimizers.

        Raises:
            ValueError: if it does not fit.
        """
        for k, explorer in enumerate(self.schedulers):
            explorer.load_state_dict(state_dict["explorers"][str(k)])
        if self._batches is not None:
            self._batches.place = state_dict["probe"]
