"""Start the ranks: N gloo processes of this machine, or the ones torchrun has started.

Local ranks are forked from a server that has imported torch once, which takes a fraction of
the time of four fresh interpreters. They meet through a file, so no port is taken. The error
that came first is the one that is raised.
"""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist


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
        RuntimeError: with the first rank's traceback, if one fails.
    """
    if under_torchrun():
        torch.set_num_threads(_threads(int(os.environ["LOCAL_WORLD_SIZE"])))
        dist.init_process_group("gloo")
        try:
            fn(*args)
            return dist.get_rank() == 0
        finally:
            dist.destroy_process_group()
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["torch._dynamo", "hdet.bench.compare"])
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_rank, args=(r, ranks, folder, fn, args))
            for r in range(ranks)
        ]
        for process in processes:
            process.start()
        try:
            _wait(processes)
        finally:
            for process in processes:
                process.terminate()
                process.join()
        if errors := sorted(Path(folder).glob("*.error")):
            raise RuntimeError(errors[0].read_text())
        if dead := {r: p.exitcode for r, p in enumerate(processes) if p.exitcode}:
            raise RuntimeError(f"Ranks ended without an error, exit codes {dead}.")
    return True


def _wait(processes: list) -> None:
    """Return once all have ended, or one has failed: the others would wait for it."""
    while any(p.is_alive() for p in processes):
        if any(p.exitcode for p in processes):
            time.sleep(1)
            return
        time.sleep(0.05)


def _threads(ranks: int) -> int:
    return max(1, (os.cpu_count() or 1) // ranks)


def _rank(rank: int, ranks: int, folder: str, fn: Callable, args: tuple) -> None:
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
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException:
        error = Path(folder, f"{time.time_ns()}.{rank}.error")
        error.write_text(f"[rank {rank} of {ranks}]\n{traceback.format_exc()}")
        os._exit(1)
