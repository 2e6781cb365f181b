"""Running what a folder of `hdet bilevel` asks for, and showing how it goes.

A run writes each outer step, and every few seconds the state behind it; one that was stopped
goes on from there, to the same points bit for bit. Methods that take values alone have no
state, and begin again.
"""

import math
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from hdet.bilevel import CurvatureError, NonFiniteError, Step

from ...core.failures import DivergedError
from .folder import Folder, Outcome
from .methods import run_method
from .settings import Settings, load

# A state takes milliseconds to write, and holds every step before it.
_SAVE_EVERY = 2.0


def run(folder: Folder) -> None:
    """Run what the folder asks for, from where it was stopped, unless it is complete.

    Args:
        folder: a folder that was created.

    Raises:
        DivergedError: if a number is not finite; what was written stays.
    """
    if folder.outcome() is not None:
        return
    settings = folder.settings()
    task = load(settings)
    state, seconds = folder.state()
    folder.begin(state["history"] if state else [])
    with _Keeper(folder, state, seconds) as keeper, _Progress(settings) as progress:

        def callback(step: Step, behind: dict[str, Any]) -> None:
            keeper.keep(step, behind)
            progress.show(step)

        try:
            result = run_method(
                settings.method,
                task,
                accuracy=settings.accuracy,
                step=settings.step,
                budget=settings.budget,
                max_steps=settings.max_steps,
                tolerance=settings.tolerance,
                solver=settings.solver,
                certify=settings.certify,
                callback=callback,
                state=state,
            )
        except (NonFiniteError, CurvatureError) as error:
            what = "the lower level is not finite where it led"
            raise DivergedError(
                f"The run broke off in outer step {keeper.steps + 1}: "
                f"{what if isinstance(error, NonFiniteError) else error}. A lower --step may "
                f"help."
            ) from error
        keeper.state = result.state
        used = keeper.seconds
    folder.write_theta(result.theta)
    folder.finish(
        Outcome(
            message=result.message,
            value=result.value,
            counts=result.counts,
            failed_searches=result.failed_searches,
            before=task.judged(task.theta0, task.x0),
            after=task.judged(result.theta, result.x),
            seconds=used,
        )
    )


class _Keeper:
    """Writes steps at once, and the last state now and then and at the end of a `with`."""

    def __init__(self, folder: Folder, state: dict[str, Any] | None, seconds: float) -> None:
        self._folder = folder
        self.state = state
        self.steps = len(state["history"]) if state else 0
        self._began = time.perf_counter() - seconds
        self._saved = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time of the run, what came before it was stopped included."""
        return time.perf_counter() - self._began

    def keep(self, step: Step, state: dict[str, Any]) -> None:
        """Keep a step and the state behind it."""
        self._folder.append(step)
        self.state, self.steps = state, step.step
        if time.perf_counter() - self._saved >= _SAVE_EVERY:
            self._save()

    def __enter__(self) -> "_Keeper":
        return self

    def __exit__(self, *error: object) -> None:
        self._save()

    def _save(self) -> None:
        if self.state:
            self._folder.write_state(self.state, self.seconds)
        self._saved = time.perf_counter()


class _Progress:
    """A bar of the budget and the last step's numbers; without a terminal, ten lines."""

    def __init__(self, settings: Settings) -> None:
        self._console = Console()
        self._budget = settings.budget
        self._said = 0
        self._bars = Progress(
            TextColumn("Cost"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            TextColumn("{task.fields[live]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            expand=True,
        )
        self._bar = self._bars.add_task("", total=self._budget, live="")
        self._live = Live(self._bars, console=self._console, refresh_per_second=10)

    def __enter__(self) -> "_Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, step: Step) -> None:
        """Show how an outer step went."""
        live = f"step {step.step} loss {step.value:.4g} eps {step.accuracy:.1e}"
        if math.isfinite(step.length):
            live += f" alpha {step.length:.1e}"
        tenths = 10 * step.cost // self._budget
        if self._console.is_terminal:
            self._bars.update(self._bar, completed=step.cost, live=live)
        elif tenths > self._said:
            self._said = tenths
            print(f"cost {step.cost}/{self._budget}: {live}", flush=True)
