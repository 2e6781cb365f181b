"""Start the ranks: N gloo processes of this machine, or the ones torchrun has started.

Local ranks are forked from a server that has imported torch once, which takes a
fraction of the time of four fresh interpreters. They meet through a file, so no port is
taken.

When one rank fails, the others fail a moment later, for want of it, or wait forever. So
the error that came first is the one that is raised, and the rest are ended. Ctrl-C goes
to every process of the terminal: the ranks ignore it, and their parent ends them.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

from .failures import FolderError, RunError


class RankError(RunError):
    """A rank failed; the message is its traceback, with the cause in the last line."""


def under_torchrun() -> bool:
    """Whether torchrun has started this process as one of several ranks."""
    return dist.is_torchelastic_launched()


def world_size() -> int | None:
    """Return how many ranks torchrun has started; None without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if under_torchrun() else None


def first_process() -> bool:
    """Whether this process may speak to the user."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def on_ranks(fn: Callable[..., None], ranks: int, *args: object) -> bool:
    """Call `fn(*args)` on every rank, inside a gloo process group.

    Args:
        fn: a function of a module, so that it can be named to another process.
        ranks: how many to start; not looked at under torchrun.
        *args: what can be pickled.

    Returns:
        Whether this process should go on and report: the parent, or torchrun's rank 0.

    Raises:
        RankError: with the traceback of the rank that failed first.
    """
    if under_torchrun():
        return _on_this_rank(fn, args)
    context = process_context("benchmarks.compare.study")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_rank, args=(r, ranks, folder, fn, args))
            for r in range(ranks)
        ]
        try:
            with holding_interrupts():
                for process in processes:
                    process.start()
            codes = _wait(processes)
        finally:
            _end(processes)
        errors = sorted(Path(folder).glob("*.error"))
        said = [file.read_text() for file in errors[:1]]
        wrote = {int(file.name.split(".")[1]) for file in errors}
        # A rank that was killed leaves no word, and is why others lose a connection.
        killed = [r for r, code in codes.items() if code and r not in wrote]
        said += [f"{_title(r, ranks)} {_ending(codes[r])}" for r in killed[:1]]
        if said:
            raise RankError("\n".join(said))
    return True


def _on_this_rank(fn: Callable[..., None], args: tuple) -> bool:
    torch.set_num_threads(_threads(int(os.environ["LOCAL_WORLD_SIZE"])))
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    try:
        fn(*args)
    except Exception:
        raise RankError(_error(rank, ranks)) from None
    finally:
        dist.destroy_process_group()
    return rank == 0


def end_with_parent() -> None:
    """Have this process end when its parent is killed: nobody else would end it."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def process_context(*preload: str) -> ForkServerContext | SpawnContext:
    """Return how to start processes; what it runs in the background ignores Ctrl-C.

    Args:
        preload: modules that the server imports once for all that it forks.
    """
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", *preload])
    # It would end the blocking of Ctrl-C, if it had to be started below.
    resource_tracker.ensure_running()
    # What is ignored when the server starts stays ignored there, and in what it forks. A
    # Ctrl-C that comes meanwhile is blocked, and so comes when this is over.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with ignoring_interrupts():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # The server answers once it has imported all that, which takes seconds. Whoever asks for
    # processes and is gone by then would have them started for nobody.
    first = context.Process(target=int)
    try:
        first.start()
        first.join()
    except BaseException:
        _end_server()
        raise
    return context


def _end_server() -> None:
    """End the server at once; another is started when there is need."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        # Its state is left for `ensure_running`, which looks for it.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def holding_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, which must be short.

    A process that is being started must be known to its parent, to be ended by it.
    """
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C for the block."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(processes: Sequence[BaseProcess]) -> dict[int, int | None]:
    """Return the exit codes once all have ended, or one has failed."""
    while any(p.is_alive() for p in processes):
        if any(p.exitcode for p in processes):
            break
        time.sleep(0.05)
    return {r: p.exitcode for r, p in enumerate(processes)}


def _end(processes: Sequence[BaseProcess]) -> None:
    """End whoever is still there; a second Ctrl-C must not interrupt this."""
    with ignoring_interrupts():
        started = [p for p in processes if p.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join(3)
            process.kill()
            process.join()


def _threads(ranks: int) -> int:
    return max(1, (os.cpu_count() or 1) // ranks)


def _title(rank: int, ranks: int) -> str:
    return f"[rank {rank} of {ranks}]"


def _error(rank: int, ranks: int) -> str:
    """Return the traceback of the exception that is being handled, or what is wrong on disk."""
    error = sys.exception()
    said = str(error) if isinstance(error, FolderError) else traceback.format_exc()
    return f"{_title(rank, ranks)}\n{said}".rstrip()


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended without an error, exit code {code}."
    name = signal.Signals(-code).name
    more = ": the system may have run out of memory." if name == "SIGKILL" else "."
    return f"was ended by signal {name}{more}"


def _rank(rank: int, ranks: int, folder: str, fn: Callable, args: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if not Path(folder).exists():
        # Ctrl-C came while this rank was being started. Minutes would pass before the
        # rendezvous gives up a file that cannot be made, and no thread runs meanwhile.
        os._exit(1)
    torch.set_num_threads(_threads(ranks))
    try:
        dist.init_process_group(
            "gloo",
            init_method=Path(folder, "rendezvous").as_uri(),
            rank=rank,
            world_size=ranks,
        )
        fn(*args)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        beside = Path(folder, f"{time.time_ns()}.{rank}.part")
        beside.write_text(_error(rank, ranks))
        # The parent may end this process at any moment; it must not find half a file.
        os.replace(beside, beside.with_suffix(".error"))
        # Not `sys.exit`: leaving the process group in order would wait for the others.
        os._exit(1)
