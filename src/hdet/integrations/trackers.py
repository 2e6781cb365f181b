"""Trackers, as `hdet.Explorer(on_sync=...)` takes them: TensorBoard, Weights & Biases, MLflow.

    explorer = hdet.Explorer(optimizer, scheduler, ..., on_sync=TensorBoard(writer))

All log from the first process alone, into the run that is open there: one run, with a curve for
the base value and one for each replica side by side, under the names of
`Explorer.metrics(flat=True)`. What happens seldom (a roll-back, a replica left out, a new level
of the loss, the end of a search) is logged in words as well, at its step.

No tracker is imported here: each gets the object that the user has. For a file of JSON lines
there is `hdet.Explorer(log=...)`. The callbacks for Lightning and the Hugging Face Trainer log
to their Trainer's own loggers without any of these.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from ..replica import Explorer

_COUNTS = ("rollbacks", "exclusions", "new_levels")


class Tracker(ABC):
    """What all trackers share; a subclass says how numbers and words are logged."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def __call__(self, explorer: Explorer) -> None:
        """Log where an Explorer stands. Local; only the first process does anything.

        Args:
            explorer: after a sync, or a step of its search.
        """
        if dist.is_initialized() and dist.get_rank() > 0:
            return
        step = explorer.metrics()["step"]
        self.numbers(explorer.metrics(flat=True), step)
        for words in self._events(explorer.metrics()):
            self.words(words, step)

    @abstractmethod
    def numbers(self, found: dict[str, float], step: int) -> None:
        """Log numbers by name.

        Args:
            found: what `Explorer.metrics(flat=True)` returned.
            step: optimizer steps so far.
        """

    @abstractmethod
    def words(self, event: str, step: int) -> None:
        """Log what has happened.

        Args:
            event: one line.
            step: optimizer steps so far.
        """

    def _events(self, metrics: dict[str, Any]) -> Iterator[str]:
        """Yield the decision if it is more than a move."""
        now = {key: metrics[key] for key in (*_COUNTS, "phase")}
        before = self._seen or now
        self._seen = now
        ended = before["phase"] != now["phase"] and now["phase"] in ("track", "frozen")
        if ended or any(now[key] > before[key] for key in _COUNTS):
            yield metrics["decision"]


class TensorBoard(Tracker):
    """Logs to TensorBoard.

    The tab "Custom scalars" has all replicas' learning rates in one panel, and the losses.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`; on other processes it may be None.
    """

    def __init__(self, writer: Any) -> None:
        super().__init__()
        self._writer = writer
        self._laid_out = False

    def numbers(self, found: dict[str, float], step: int) -> None:
        """See `Tracker.numbers`.

        Args:
            found: by name.
            step: optimizer steps so far.
        """
        if not self._laid_out:
            kinds = {"learning rate": "lr", "loss": "loss", "probe": "probe"}
            panels = {name: ["Multiline", [f"hdet/{k}/.*"]] for name, k in kinds.items()}
            self._writer.add_custom_scalars({"hdet": panels})
            self._laid_out = True
        for name, value in found.items():
            self._writer.add_scalar(name, value, step)

    def words(self, event: str, step: int) -> None:
        """See `Tracker.words`.

        Args:
            event: one line.
            step: optimizer steps so far.
        """
        self._writer.add_text("hdet/events", event, step)


class WandB(Tracker):
    """Logs to Weights & Biases, over `hdet/step` in place of W&B's own step.

    So log your own metrics without `step=`: W&B drops what comes with a smaller one than it
    has counted.

    Args:
        run: what `wandb.init` returned; on other processes it may be None.
    """

    def __init__(self, run: Any) -> None:
        super().__init__()
        self._run = run
        if run is not None:
            run.define_metric("hdet/step")
            run.define_metric("hdet/*", step_metric="hdet/step")

    def numbers(self, found: dict[str, float], step: int) -> None:
        """See `Tracker.numbers`.

        Args:
            found: by name.
            step: optimizer steps so far.
        """
        self._run.log(found)

    def words(self, event: str, step: int) -> None:
        """See `Tracker.words`.

        Args:
            event: one line.
            step: optimizer steps so far.
        """
        self._run.log({"hdet/event": event, "hdet/step": step})


class MLflow(Tracker):
    """Logs to an MLflow run; what has happened stands in its tags.

    Args:
        client: a `mlflow.MlflowClient`; on other processes it may be None.
        run_id: of the run that is open, `mlflow.active_run().info.run_id`.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        super().__init__()
        self._client, self._id = client, run_id

    def numbers(self, found: dict[str, float], step: int) -> None:
        """See `Tracker.numbers`.

        Args:
            found: by name.
            step: optimizer steps so far.
        """
        for name, value in found.items():
            self._client.log_metric(self._id, name, value, step=step)

    def words(self, event: str, step: int) -> None:
        """See `Tracker.words`.

        Args:
            event: one line.
            step: optimizer steps so far.
        """
        self._client.set_tag(self._id, f"hdet.step{step}", event)
