"""Local processes that train together: started, listened to, and ended whatever happens.

They meet through a file, so that no port is taken, and talk over the loopback device. Only the
parent answers Ctrl-C; the ranks never see it, and end by themselves when their parent is gone.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Generator, Iterator
from contextlib import suppress
from importlib import import_module
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# A pipe that many processes write to keeps messages whole that are shorter than 4 KiB.
_LONGEST = 3000


class RankError(RuntimeError):
    """A rank failed; the message is its traceback, with the cause in the last line."""


def run_ranks(module: str, size: int, *args: object) -> Generator[Any, None, None]:
    """Call `module.train(rank, size, send, *args)` in `size` processes of a gloo group.

    Yields what they send, which must be small. Only they import the module. Close the
    generator where it may be left before its end.

    Raises:
        RankError: with the traceback of the rank that failed first.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    folder = tempfile.mkdtemp(prefix="hdet-demo-")
    given = [(module, rank, size, folder, writer, args) for rank in range(size)]
    ranks = [context.Process(target=_rank, args=one, daemon=True) for one in given]
    before = signal.getsignal(signal.SIGINT)

    def end(*interrupt: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for rank in ranks:
            if rank.pid is not None:
                rank.kill()
                rank.join()
        shutil.rmtree(folder, ignore_errors=True)
        if interrupt and callable(before):
            before(*interrupt)

    try:
        # Where Ctrl-C is ignored, as in a shell's background, it stays so.
        if callable(before):
            signal.signal(signal.SIGINT, end)
        # Processes that are started while Ctrl-C is held back hold it back for good.
        if hold := getattr(signal, "pthread_sigmask", None):
            resource_tracker.ensure_running()  # below, it would end the holding back
            hold(signal.SIG_BLOCK, {signal.SIGINT})
        for rank in ranks:
            rank.start()
        if hold:
            hold(signal.SIG_UNBLOCK, {signal.SIGINT})
        # The pipe ends with the last rank, once nobody else can write to it.
        writer.close()
        yield from _messages(reader)
        for number, rank in enumerate(ranks):
            rank.join()
            if rank.exitcode:
                raise RankError(f"rank {number} ended with exit code {rank.exitcode}.")
    finally:
        end()
        signal.signal(signal.SIGINT, before)


def _messages(reader: Connection) -> Iterator[Any]:
    with suppress(EOFError):
        while True:
            failure, content = reader.recv()
            if failure:
                raise RankError(failure)
            yield content


def _rank(
    module: str, rank: int, size: int, folder: str, writer: Connection, args: tuple[object, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # On laptops the machine's own name often leads nowhere.
    if os.name == "posix":
        loopback = next(n for _, n in socket.if_nameindex() if n.startswith("lo"))
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        meeting = Path(folder, "meeting").as_uri()
        dist.init_process_group("gloo", meeting, rank=rank, world_size=size)
        train = import_module(module).train
        train(rank, size, lambda content: writer.send(("", content)), *args)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        trace = traceback.format_exc().rstrip()[-_LONGEST:]
        with suppress(OSError):
            writer.send((f"[rank {rank} of {size}]\n{trace}", None))
        # Leaving the process group in order would wait for the others.
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
