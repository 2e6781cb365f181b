"""Benchmarks of many small runs: their folder, and one process per core to do them.

    <folder>/config.json, environment.json
    <folder>/results.jsonl      one line per run, appended when it is over

A run is a function of its unit alone and computes in one thread, so any number of processes
gives the same numbers, and a benchmark that was stopped goes on with the units that have no
line. The parent writes the results: one file, one writer. A line is written whole: what a kill
leaves of the last one is passed over.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rich.console import Console

from .records import environment, write_json
from .workers import pool, progress, raise_from


class Unit(Protocol):
    """One run; `str` of it names it to people."""

    @property
    def key(self) -> str:
        """What tells the unit from all others."""
        ...


AnyUnit = TypeVar("AnyUnit", bound=Unit)
# A dataclass of plain values.
Plan = TypeVar("Plan")


class UnitFolder(Generic[Plan]):
    """One run of such a benchmark on disk; a benchmark names its plan and its command.

    Args:
        path: the folder.

    Attributes:
        plan_type: the dataclass that `config.json` has the content of.
        command: as the user types it.
    """

    plan_type: ClassVar[Callable[..., Any]]
    command: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, plan: Plan) -> None:
        """Make the folder and write what was asked for."""
        write_json(self.path / "config.json", asdict(plan))  # pyright: ignore[reportArgumentType]
        write_json(self.path / "environment.json", environment())

    def plan(self) -> Plan:
        """Read back what was asked for.

        Raises:
            ValueError: if this is not a folder of this benchmark.
        """
        try:
            return self.plan_type(**json.loads((self.path / "config.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.path} is not a run folder of `{self.command}`: {error!r}. Give "
                f"the folder that the run printed."
            ) from error

    def append(self, unit: Unit, outcome: dict[str, Any]) -> None:
        """Write how a run went, whole."""
        line = json.dumps({"key": unit.key, **outcome}, allow_nan=False) + "\n"
        with open(self.path / "results.jsonl", "a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def results(self) -> dict[str, dict[str, Any]]:
        """Return how the runs went that are over, by key."""
        file = self.path / "results.jsonl"
        if not file.exists():
            return {}
        found = {}
        for line in file.read_text().splitlines():
            try:
                outcome = json.loads(line)
            except ValueError:
                continue
            found[outcome["key"]] = outcome
        return found


def do_runs(
    folder: UnitFolder,
    todo: Sequence[AnyUnit],
    outcome: Callable[[AnyUnit], dict[str, Any]],
    processes: int | None = None,
) -> None:
    """Do runs, write how each went, and show progress.

    Args:
        folder: a folder that was created.
        todo: the runs that have no result yet.
        outcome: does one run; a function of a module, as other processes import it.
        processes: how many at once; None for the machine's cores.

    Raises:
        MissingDataError: if data are not there.
        WorkerError: if a run failed by an error of the program.
    """
    if not todo:
        return
    console = Console()
    with progress(console) as bars, pool(processes, outcome.__module__) as workers:
        bar = bars.add_task("Runs", total=len(todo))
        futures = {workers.submit(outcome, unit): unit for unit in todo}
        for count, future in enumerate(as_completed(futures), 1):
            raise_from(future.exception(), futures[future])
            folder.append(futures[future], future.result())
            bars.advance(bar)
            if not console.is_terminal and count % 50 == 0:
                print(f"{count} of {len(todo)} runs", flush=True)
