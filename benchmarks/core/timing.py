"""Timing in turns on all ranks, and ratios round by round."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist


def in_turns(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each function once a round, in turn, so that a noisy moment hits all alike.

    Collective. A round's time is the slowest rank's: nobody goes on before that one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for call in functions.values():
        call()
    for turn in range(rounds):
        # Each takes every place in the order equally often: the one behind pays for the
        # cold caches that the one before leaves.
        names = list(functions)
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            dist.barrier()
            began = time.perf_counter()
            functions[name]()
            took = torch.tensor(time.perf_counter() - began)
            dist.all_reduce(took, op=dist.ReduceOp.MAX)
            seconds[name].append(float(took))
    return seconds


def ratios(seconds: dict[str, list[float]], of: str, to: str) -> dict[str, float]:
    """Return the median, quartiles and standard error of the ratio, round by round."""
    pairs = [a / b for a, b in zip(seconds[of], seconds[to], strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4)
    # 1.2533: the standard error of a median is that much larger than a mean's.
    error = 1.2533 * statistics.stdev(pairs) / len(pairs) ** 0.5
    return {"median": median, "lower": low, "upper": high, "error": error}
