"""Running what a folder of `hdet federate` asks for, and showing how it goes.

A run is determined by its settings: every draw is keyed by the seed. So one that was stopped
begins again from its first round, which takes seconds, and comes to the same numbers; no
state has to be saved on the way.
"""

import time
from collections.abc import Callable, Generator
from contextlib import closing

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from ...core.failures import DivergedError
from .flower_engine import on_flower
from .folder import Folder, Plan
from .run import Federation, RoundRecord

Engine = Callable[[Folder, Plan], Generator[RoundRecord]]


def run(folder: Folder) -> None:
    """Run what the folder asks for from its first round, unless it is complete.

    Args:
        folder: a folder that was created.

    Raises:
        RunError: if the run could not go on; what it has written stays.
    """
    if folder.seconds() is not None:
        return
    plan, began = folder.plan(), time.perf_counter()
    folder.begin()
    engine = on_flower if plan.engine == "flower" else in_process
    # Closed at once, whatever interrupts it: an engine ends what it has started.
    with _Progress(plan) as progress, closing(engine(folder, plan)) as records:
        for record in records:
            progress.show(record)
    folder.finish(time.perf_counter() - began)


def in_process(folder: Folder, plan: Plan) -> Generator[RoundRecord]:
    """Run within this process; yield each round when it is over and written.

    Raises:
        DivergedError: if no client's update is finite any more.
    """
    federation = Federation(plan.settings)
    for record in federation.run():
        folder.append(record)
        yield record
        if not record.replied:
            raise DivergedError(
                f"The run diverged in round {record.round}: no client's update is finite. A "
                f"lower --lr may help."
            )
    folder.write_model(federation.network.views(federation.rounds.eval_weights))


class _Progress:
    """A bar and the last round's numbers; without a terminal, ten lines in all."""

    def __init__(self, plan: Plan) -> None:
        self._console = Console()
        self._rounds = plan.settings.rounds
        self._bars = Progress(
            TextColumn("Rounds"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            TextColumn("{task.fields[live]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            expand=True,
        )
        # Ray and its workers take half a minute.
        self._waiting = "starting Flower" if plan.engine == "flower" else ""
        self._bar = self._bars.add_task("", total=self._rounds, live=self._waiting)
        self._live = Live(self._bars, console=self._console, refresh_per_second=10)

    def __enter__(self) -> "_Progress":
        if self._console.is_terminal:
            self._live.start()
        elif self._waiting:
            print(self._waiting, flush=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, record: RoundRecord) -> None:
        """Show how a round went."""
        live = (
            f"loss {number(record.loss)} acc {record.accuracy:5.1f} % "
            f"alpha {record.alpha:.3g} beta {record.beta:.3g}"
        )
        clients = "clients " + " ".join(map(str, record.selected))
        if self._console.is_terminal:
            self._bars.update(self._bar, completed=record.round, live=live)
            text = Text(clients, no_wrap=True, overflow="ellipsis", style="dim")
            self._live.update(Group(self._bars, text))
        elif record.round % max(1, self._rounds // 10) == 0:
            print(f"round {record.round}/{self._rounds}: {live} {clients}", flush=True)


def number(loss: float) -> str:
    """Return a loss in six or seven columns, however far it has diverged."""
    plain = f"{loss:.4f}"
    return plain if len(plain) <= 7 else f"{loss:.1e}"
