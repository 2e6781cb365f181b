"""Do the runs of the robustness benchmark, one process per core.

Every run is a function of its unit alone and trains in one thread, so any number of
processes gives the same numbers. A worker writes its result itself: whatever ends the
benchmark, only the runs under way are lost.
"""

from collections.abc import Callable
from concurrent.futures import as_completed
from pathlib import Path
from statistics import fmean

from rich.console import Console

from ..core.pool import pool, progress, raise_from
from ..core.ranks import holding_interrupts
from ..tasks import Task
from .methods import all_methods
from .problems import Method, Problem
from .problems import load as load_task
from .units import Folder, Unit, best_point, sweep_lr, units

Methods = Callable[[], dict[str, Method]]
Load = Callable[[Problem], Task]


def unfinished(folder: Folder) -> list[Unit]:
    """Return the known runs without a result, those that take longest first."""
    todo = [
        unit
        for unit in units(folder)[0]
        if not folder.file(unit.problem.name, unit.method, unit.place, unit.seed).exists()
    ]
    seconds = _seconds(folder)
    # A long run begun last would leave the other cores idle. Nothing is known at first.
    return sorted(todo, key=lambda unit: -seconds.get(unit.problem.name, 0.0))


def run_all(
    folder: Folder,
    processes: int | None = None,
    methods: Methods = all_methods,
    load: Load = load_task,
) -> None:
    """Do every run that has no result yet, and show progress.

    Args:
        folder: a folder that was created.
        processes: how many at once; None for the machine's cores.
        methods: gives the methods by name; a function of a module, as is `load`, so that
            it can be named to another process.
        load: gives a problem's task with its data.

    Raises:
        MissingDataError: if the data of a problem are not there.
        ValueError: if a sweep found no rate that trains.
        WorkerError: if a run failed.
    """
    console = Console()
    todo = unfinished(folder)
    if not todo:
        return
    workers = pool(processes, __name__, _set_up, methods, load)
    with progress(console) as bars, workers as running:
        bar = bars.add_task("Runs", total=None)
        said: set[str] = set()
        while todo:
            known, later = units(folder)
            done = len(known) - len(todo)
            bars.update(bar, total=len(known) + later, completed=done)
            with holding_interrupts():
                futures = {running.submit(_work, folder.path, unit): unit for unit in todo}
            for count, future in enumerate(as_completed(futures), 1):
                raise_from(future.exception(), futures[future])
                bars.advance(bar)
                if not console.is_terminal and count % 20 == 0:
                    print(f"{done + count} of {len(known) + later} runs", flush=True)
            _say_best(console, folder, said)
            todo = unfinished(folder)


def _say_best(console: Console, folder: Folder, said: set[str]) -> None:
    for problem in folder.settings().problems:
        best = best_point(folder, problem)
        if best is not None and problem.name not in said:
            said.add(problem.name)
            lr = sweep_lr(problem, best)
            console.print(f"{problem.name}: best LR of plain DDP {lr:.2g}", highlight=False)


def _seconds(folder: Folder) -> dict[str, float]:
    """Return the mean time of a plain run of each problem that has one."""
    found: dict[str, list[float]] = {}
    for unit in units(folder)[0]:
        run = folder.outcome(unit.problem.name, unit.method, unit.place, unit.seed)
        # The sweep alone: a method's runs that diverge at once say nothing of the rest.
        if run is not None and unit.place.startswith("sweep"):
            found.setdefault(unit.problem.name, []).append(run.seconds)
    return {name: fmean(seconds) for name, seconds in found.items()}


# What a worker keeps between its runs; the parent's stay empty.
_given: dict[str, Callable] = {}
_tasks: dict[str, Task] = {}


def _set_up(methods: Methods, load: Load) -> None:
    _given.update(methods=methods, load=load)


def _work(path: Path, unit: Unit) -> None:
    """Do one run in a worker and write its result."""
    problem = unit.problem
    if problem.task not in _tasks:
        _tasks[problem.task] = _given["load"](problem)
    method: Method = _given["methods"]()[unit.method]
    outcome = method(problem, _tasks[problem.task], unit.lr, unit.seed)
    Folder(path).write(unit, outcome)
