"""Do the runs of the robustness benchmark, one process per core.

Every run is a function of its unit alone and trains in one thread, so any number of
processes gives the same numbers. A worker writes its result itself: whatever ends the
benchmark, only the runs under way are lost.

The workers ignore Ctrl-C, which goes to every process of the terminal; their parent
ends them, and they end when their parent is gone.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ...errors import MissingDataError
from ..launch import ignoring_interrupts, process_context
from ..tasks import Task
from .methods import all_methods
from .problems import Method, Problem
from .problems import load as load_task
from .units import Folder, Unit, best_point, sweep_lr, units

Methods = Callable[[], dict[str, Method]]
Load = Callable[[Problem], Task]


class WorkerError(RuntimeError):
    """A run failed by an error of the program; the message ends with its cause."""


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
    with _progress(console) as bars, _pool(processes, methods, load) as pool:
        bar = bars.add_task("Runs", total=None)
        said: set[str] = set()
        while todo:
            known, later = units(folder)
            done = len(known) - len(todo)
            bars.update(bar, total=len(known) + later, completed=done)
            futures = {pool.submit(_work, folder.path, unit): unit for unit in todo}
            for count, future in enumerate(as_completed(futures), 1):
                _raise_from(future.exception(), futures[future])
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


def _raise_from(error: BaseException | None, unit: Unit) -> None:
    if error is None:
        return
    if isinstance(error, MissingDataError):
        raise error
    if isinstance(error, BrokenProcessPool):
        raise WorkerError(
            "a worker process was ended from outside: the system may have run out of "
            "memory. Try fewer --processes."
        ) from error
    if isinstance(error, ImportError):
        raise WorkerError(f"{unit}: {error}") from error
    trace = "".join(traceback.format_exception(error)).rstrip()
    raise WorkerError(f"{unit}\n{trace}") from error


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,
        disable=not console.is_terminal,
    )


@contextmanager
def _pool(processes: int | None, methods: Methods, load: Load) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of workers; whatever interrupts its use ends them at once."""
    others = multiprocessing.active_children()
    context = process_context(__name__)
    pool = ProcessPoolExecutor(
        processes or os.cpu_count(), context, _start_worker, (methods, load)
    )
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        with ignoring_interrupts():
            workers = [p for p in multiprocessing.active_children() if p not in others]
            pool.shutdown(wait=False, cancel_futures=True)
            _end(workers)
        raise


def _end(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(5)


# What a worker keeps between its runs; the parent's stay empty.
_given: dict[str, Callable] = {}
_tasks: dict[str, Task] = {}


def _start_worker(methods: Methods, load: Load) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _given.update(methods=methods, load=load)


def _end_with_parent() -> None:
    """End this worker when its parent is killed: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(path: Path, unit: Unit) -> None:
    """Do one run in a worker and write its result."""
    problem = unit.problem
    if problem.task not in _tasks:
        _tasks[problem.task] = _given["load"](problem)
    method: Method = _given["methods"]()[unit.method]
    outcome = method(problem, _tasks[problem.task], unit.lr, unit.seed)
    Folder(path).write(unit, outcome)
