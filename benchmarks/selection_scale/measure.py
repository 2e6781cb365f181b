"""Time and memory of one selector; nothing is imported but what a server would need."""

import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing import Queue

import torch

from hdet.federated.selection import (
    ClientReport,
    HeteroSelect,
    HeteroSelectV2,
    Oort,
    PowerOfChoice,
    Random,
    Selector,
)
from hdet.seeding import generator

COUNT = 100
CALLS = 5
SELECTORS: dict[str, Callable[[], Selector]] = {
    "Random": Random,
    "PowerOfChoice pow-d, d=100": lambda: PowerOfChoice(COUNT),
    "PowerOfChoice rpow-d, d=1000": lambda: PowerOfChoice(10 * COUNT, "rpow-d"),
    "Oort": Oort,
    "HeteroSelect": HeteroSelect,
    "HeteroSelect reconstruction": lambda: HeteroSelect.reconstruction(rounds=100),
    "HeteroSelectV2": HeteroSelectV2,
}


def reports(clients: list[str], label: str, full: bool) -> dict[str, ClientReport]:
    """Return a report of each client; a full one as after training, else as of a probe."""
    n = len(clients)
    losses = torch.rand(n, generator=generator(0, label)).tolist()
    if not full:
        return {c: ClientReport(loss, 600) for c, loss in zip(clients, losses, strict=True)}
    updates = torch.randn(n, 16, generator=generator(0, label, "update"))
    labels = torch.rand(n, 10, generator=generator(0, label, "labels")) + 0.01
    return {
        c: ClientReport(losses[i], 600, losses[i], updates[i], label_counts=labels[i])
        for i, c in enumerate(clients)
    }


def measure(name: str, size: int, results: "Queue") -> None:
    """Time one selector on one number of clients, in a process of its own."""
    torch.set_num_threads(1)
    clients = [f"client-{i:07d}" for i in range(size)]
    selector = SELECTORS[name]()
    asked = selector.candidates(clients)
    probes = reports(asked, "probe", full=False)
    began = time.perf_counter()
    first = selector.select(1, clients, COUNT, probes)
    registering = time.perf_counter() - began
    selector.feedback(1, reports(first, "first", full=True))
    # Many rounds' worth at once; but PowerOfChoice takes no more than its candidates, and a
    # cohort's cost grows with the square of its size.
    many = COUNT if name.startswith("PowerOfChoice") else size // 10
    many = min(many, 1000) if name == "HeteroSelect" else many
    chosen = selector.select(2, clients, many, probes)
    selector.feedback(2, reports(chosen, "many", full=True))
    asking, milliseconds, processor = [], [], []
    for number in range(3, 3 + CALLS):
        began = time.perf_counter()
        selector.candidates(clients)
        asked_at = time.perf_counter()
        working = time.process_time()
        chosen = selector.select(number, clients, COUNT, probes)
        processor.append(1e3 * (time.process_time() - working))
        milliseconds.append(1e3 * (time.perf_counter() - asked_at))
        asking.append(1e3 * (asked_at - began))
        selector.feedback(number, reports(chosen, f"round {number}", full=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put(
        {
            "selector": name,
            "clients": size,
            "probes": len(probes),
            "candidates_ms": statistics.median(asking),
            "median_ms": statistics.median(milliseconds),
            "cpu_ms": statistics.median(processor),
            "slowest_ms": max(milliseconds),
            "first_call_ms": 1e3 * registering,
            "peak_mb": peak,
        }
    )
