"""Run a function on several gloo ranks of this machine.

Ranks are forked from one server that has imported what is slow to import: what the modules of
the tests import counts too, since each rank imports the one that its function is from. So four
of them start in a fraction of a second. The error that came first is the one that is raised: a
rank that loses a peer fails a moment later, and knows nothing of the cause.
"""

import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

context = mp.get_context("forkserver")
context.set_forkserver_preload(
    [
        "torch._dynamo.testing",
        "torch.distributed.checkpoint.state_dict",
        "torch.distributed.fsdp",
        "torch.distributed.tensor.parallel",
        # `import hdet` loads nothing yet.
        "hdet.replica.explorer.reference",
        "hdet.replica.paper.reference",
        "pytest",
        "tests.ranks.common",
    ]
)


def _rank(rank: int, world_size: int, folder: str, fn: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(fn(*args), f"{folder}/{rank}.result")
        dist.barrier()
    except BaseException:
        error = Path(f"{folder}/{time.time_ns()}.{rank}.error")
        error.write_text(traceback.format_exc())
        raise SystemExit(1) from None
    finally:
        dist.destroy_process_group()


def run_ranks(fn: Callable, world_size: int, *args: object) -> list:
    """Return `fn(*args)` of every rank, or raise the error that came first."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(r, world_size, folder, fn, args))
            for r in range(world_size)
        ]
        for process in ranks:
            process.start()
        try:
            for process in ranks:
                process.join()
        finally:
            # A test that ran out of time leaves nobody behind.
            for process in ranks:
                process.kill()
        if errors := sorted(Path(folder).glob("*.error")):
            rank = errors[0].name.split(".")[1]
            raise AssertionError(f"rank {rank}:\n{errors[0].read_text()}")
        if dead := {r: p.exitcode for r, p in enumerate(ranks) if p.exitcode}:
            raise AssertionError(f"Ranks ended without an error, exit codes {dead}.")
        # The first load sets up typed storages, which warns once in some versions.
        return [
            torch.load(f"{folder}/{r}.result", weights_only=False) for r in range(world_size)
        ]
