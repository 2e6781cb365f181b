"""Ranks of which the second fails, and the first waits for it."""

from collections.abc import Callable

import torch.distributed as dist


def train(rank: int, size: int, send: Callable[[str], None]) -> None:
    if rank == 0:
        send("rank 0 is here")
    dist.barrier()
    if rank == 1:
        raise ZeroDivisionError
    dist.barrier()
