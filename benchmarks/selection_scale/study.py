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
from typing import Annotated, Any

import pandas as pd
import typer

from ..core.records import write_record
from .measure import CALLS, COUNT, SELECTORS, measure

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def command(
    largest: Annotated[
        int, typer.Option(min=1000, help="The most clients, of 1,000 to 1,000,000.")
    ] = SIZES[-1],
) -> None:
    """Time every selector on up to a million clients, and write the record."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([measure.__module__])
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
