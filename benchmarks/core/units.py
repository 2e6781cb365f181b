"""Benchmarks of many small runs: their folder, and one process per core to do them.

    <folder>/config.json, environment.json
    <folder>/results.jsonl      one line per run, appended when it is over

A run is a function of its unit alone and computes in one thread, so any number of processes
gives the same numbers, and a benchmark that was stopped goes on with the units that have no
line. The parent writes the results: one file, one writer.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from rich.console import Console

from .files import append, damaged, finite, read_lines
from .folders import Asked, CommandFolder
from .parsing import parsed
from .pool import pool, progress, raise_from
from .ranks import holding_interrupts

_REMEDY = "remove that line, and --resume does its run again"


class Unit(Protocol):
    """One run; `str` of it names it to people."""

    @property
    def key(self) -> str:
        """What tells the unit from all others."""
        ...


AnyUnit = TypeVar("AnyUnit", bound=Unit)


class UnitFolder(CommandFolder[Asked]):
    """One run of such a benchmark on disk; a benchmark names its plan and its command.

    Attributes:
        values: what a run's line has, name and type, by the first part of its key; by ""
            for all others.
    """

    values: ClassVar[Mapping[str, Mapping[str, Any]]]

    def check(self) -> None:
        """Read what is there; see `CommandFolder.check`."""
        super().check()
        for key, outcome in self.results().items():
            values = self.values.get(key.partition("/")[0], self.values.get("", {}))
            for name, kind in values.items():
                try:
                    if name not in outcome:
                        raise ValueError(f"{name} is missing")
                    parsed(kind, outcome[name], name)
                except ValueError as error:
                    raise damaged(self._results, f"{key}: {error}", _REMEDY) from error

    def append(self, unit: Unit, outcome: dict[str, Any]) -> None:
        """Write how a run went."""
        append(self._results, [finite({"key": unit.key, **outcome})], lasting=True)

    def results(self) -> dict[str, dict[str, Any]]:
        """Return how the runs went that are over, by key."""
        found = {}
        for number, outcome in enumerate(read_lines(self._results, _REMEDY), 1):
            if not isinstance(outcome, dict) or not isinstance(outcome.get("key"), str):
                raise damaged(self._results, f"line {number}: it is of no run", _REMEDY)
            found[outcome["key"]] = outcome
        return found

    @property
    def _results(self) -> Path:
        return self.path / "results.jsonl"


def do_runs(
    folder: UnitFolder,
    todo: Sequence[AnyUnit],
    outcome: Callable[[AnyUnit], dict[str, Any]],
    processes: int | None = None,
    setup: tuple[Any, ...] = (None,),
) -> None:
    """Do runs, write how each went, and show progress.

    Args:
        folder: a folder that was created.
        todo: the runs that have no result yet.
        outcome: does one run; a function of a module, as other processes import it.
        processes: how many at once; None for the machine's cores.
        setup: a function that each process calls before its first run, and its arguments.
    """
    if not todo:
        return
    console = Console()
    with progress(console) as bars, pool(processes, outcome.__module__, *setup) as workers:
        bar = bars.add_task("Runs", total=len(todo))
        with holding_interrupts():
            futures = {workers.submit(outcome, unit): unit for unit in todo}
        for count, future in enumerate(as_completed(futures), 1):
            raise_from(future.exception(), futures[future])
            folder.append(futures[future], future.result())
            bars.advance(bar)
            if not console.is_terminal and count % 50 == 0:
                print(f"{count} of {len(todo)} runs", flush=True)
