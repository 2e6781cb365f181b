"""A pool of processes that each do one run at a time, in one thread.

The workers ignore Ctrl-C, which goes to every process of the terminal; their parent ends
them, and they end when their parent is gone.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

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

from .failures import FolderError, MissingDataError, RunError
from .ranks import end_with_parent, ignoring_interrupts, process_context


class WorkerError(RunError):
    """A run failed by an error of the program; the message ends with its cause."""


@contextmanager
def pool(
    processes: int | None,
    preload: str,
    setup: Callable[..., None] | None = None,
    *given: object,
) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of workers; whatever interrupts its use ends them at once.

    Args:
        processes: how many; None for the machine's cores.
        preload: the module that the workers' tasks are in, imported once for all.
        setup: called in each worker before its first task; a function of a module, so that
            it can be named to another process.
        *given: its arguments.
    """
    others = multiprocessing.active_children()
    workers = ProcessPoolExecutor(
        processes or os.cpu_count(), process_context(preload), _start, (setup, given)
    )
    try:
        yield workers
        workers.shutdown()
    except BaseException:
        with ignoring_interrupts():
            started = [p for p in multiprocessing.active_children() if p not in others]
            workers.shutdown(wait=False, cancel_futures=True)
            _end(started)
        raise


def raise_from(error: BaseException | None, unit: object) -> None:
    """Raise what ended a worker's task in words for the user; nothing if it ended well.

    Raises:
        WorkerError: unless data are missing or the folder is at fault, which say it themselves.
    """
    if error is None:
        return
    if isinstance(error, (MissingDataError, FolderError)):
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


def progress(console: Console) -> Progress:
    """Return a bar of runs done, of how many, and the time; silent where nobody looks."""
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


def _end(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(5)


def _start(setup: Callable[..., None] | None, given: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(1)
    if setup is not None:
        setup(*given)
