"""How long choosing a round's clients takes, and how much memory, for up to a million clients.

    python -m benchmarks selection-scale [--largest 1000000]

Each selector and size has a process of its own, forked from one that has only imported the
library, so that the peak memory is what a server would need: the ids, the selector and, where
everybody is probed, a report from each. A tenth of the clients has answered before the clock
runs (two rounds' worth for PowerOfChoice, and at most 1000 for HeteroSelect). The clients come
as a list of strings, as a server would have them. `cpu_ms` is the processor's time, which a
busy machine disturbs less.
"""

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

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

from ..core.plotting import figure, legend
from ..core.records import write_record

COUNT = 100
CALLS = 5
SIZES = (1_000, 10_000, 100_000, 1_000_000)
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


def measure(name: str, size: int, results: "multiprocessing.Queue") -> None:
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


def command(
    largest: Annotated[
        int, typer.Option(min=1000, help="The most clients, of 1,000 to 1,000,000.")
    ] = SIZES[-1],
) -> None:
    """Time every selector on up to a million clients, and write the record."""
    context = multiprocessing.get_context("fork")
    runs = []
    for size in (size for size in SIZES if size <= largest):
        for name in SELECTORS:
            results = context.Queue()
            process = context.Process(target=measure, args=(name, size, results))
            process.start()
            runs.append(results.get(timeout=600))
            process.join()
            row = runs[-1]
            print(
                f"{size:>9,} {name:<30} {row['median_ms']:8.1f} ms "
                f"(cpu {row['cpu_ms']:.1f}, first {row['first_call_ms']:.0f}) "
                f"{row['peak_mb']:7.0f} MB"
            )
    content = {"count": COUNT, "calls": CALLS, "threads": 1, "runs": runs}
    content["load_average"] = os.getloadavg()[0]
    content["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    write_record("selection_scale", "python -m benchmarks selection-scale", content)


def scale_table(record: dict[str, Any]) -> pd.DataFrame:
    """Return what a selection costs, a column for each number of clients."""
    runs = {(run["selector"], run["clients"]): run for run in record["runs"]}
    names, sizes = (list(dict.fromkeys(key[i] for key in runs)) for i in (0, 1))
    rows = []
    for name in names:
        most = runs[name, sizes[-1]]
        times = {f"{size:,}": f"{runs[name, size]['cpu_ms']:,.1f}" for size in sizes}
        rows.append(
            {
                "selector": name,
                **times,
                "wall, ms": f"{most['median_ms']:,.0f}",
                "first, ms": f"{most['first_call_ms']:,.0f}",
                "peak, MB": f"{most['peak_mb']:,.0f}",
                "probed": f"{most['probes']:,}",
            }
        )
    return pd.DataFrame(rows)


def draw(record: dict[str, Any], file: Path) -> None:
    """Draw the processor's time of every selector over the number of clients."""
    runs = pd.DataFrame(record["runs"])
    caption = f"Median of {record['calls']} calls on {record['threads']} thread."
    with figure(file, 4.0, f"Time to choose {record['count']} clients", caption) as drawn:
        ax = drawn.subplots()
        for (name, rows), marker in zip(
            runs.groupby("selector", sort=False), "ov^sDP*", strict=True
        ):
            ax.loglog(rows["clients"], rows["cpu_ms"], marker=marker, ms=5, label=str(name))
        ax.set(xlabel="clients", ylabel="milliseconds of the processor")
        legend(ax)
