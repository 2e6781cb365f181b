"""What a sync costs: a model checked against gloo here, and worked out for large clusters.

    python -m benchmarks cost [--rounds 21]

With 2 and with 4 processes, all in turns in one run: plain all-reduces of several sizes, which
give latency and bandwidth; copies of memory by all processes at once; and `hdet.average_` on
several layouts, each beside what `cost.model` makes of the measurements of the same round.
Processor time is measured besides: other programs lengthen the time, and hardly that.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer

import hdet

from ..core.ranks import on_ranks
from ..core.records import write_record
from ..core.timing import in_turns, ratios
from .cluster import Cluster
from .model import (
    BUCKET_BYTES,
    RUN,
    Load,
    Measured,
    Rates,
    fit_line,
    on_shared_cores,
    predict,
)
from .tables import tables

SIZES = [2**10, 2**16, 2**20, 2**22, BUCKET_BYTES]
# Rounds in which other programs take more of a core than this do not count, unless too few
# are left.
QUIET, FEW = 0.2, 5
PATIENCE = 60.0  # seconds for each process of a group, after which none is started anew
COPIED, COPIES = 40 * RUN, 2
ONES = 1000
CASES = {
    "4 MB, 100 tensors": Load(100, 10_000, 4),
    "4 MB, 1 tensor": Load(1, 1_000_000, 4),
    "40 MB, 1,000 tensors": Load(1000, 10_000, 4),
    "40 MB, 10 tensors": Load(10, 1_000_000, 4),
    "160 MB, 4,000 tensors": Load(4000, 10_000, 4),
    "160 MB, 40 tensors": Load(40, 1_000_000, 4),
    "20 MB of bf16, 1,000 tensors": Load(1000, 10_000, 2),
    "20 MB of bf16, 10 tensors": Load(10, 1_000_000, 2),
    "whole sync, 40 MB, 10 tensors": Load(10, 1_000_000, 4, gathers=2),
}


def parts() -> dict[str, Callable[[], object]]:
    """Return what the model is made of, each alone."""
    flats = {f"wire {size}": torch.zeros(size // 4) for size in SIZES}
    source, target = torch.randn(COPIED), torch.randn(COPIED)
    pairs = list(zip(target.split(RUN), source.split(RUN), strict=True))
    ones = [torch.zeros(1) for _ in range(ONES)]
    half = dist.new_group([0, 1])
    bucket = torch.zeros(BUCKET_BYTES // 4)

    def memory() -> None:
        for to, of in pairs * COPIES:
            to.copy_(of)

    def cache() -> None:
        for _ in pairs * COPIES:
            pairs[0][0].copy_(pairs[0][1])

    def pair() -> None:
        if dist.get_rank() < 2:
            dist.all_reduce(bucket, group=half)

    wires = {name: lambda flat=flat: dist.all_reduce(flat) for name, flat in flats.items()}
    copying = {"memory": memory, "cache": cache, "ones": lambda: hdet.average_(ones)}
    return {**wires, **copying, "pair": pair}


def averaging(load: Load) -> Callable[[], object]:
    """Return a call that averages what the case says."""
    dtype = torch.bfloat16 if load.kept == 2 else torch.float32
    tensors = [
        torch.nn.Parameter(torch.randn(load.each, dtype=dtype)) for _ in range(load.tensors)
    ]
    if load.gathers == 1:
        return lambda: hdet.average_(tensors)
    optimizer = torch.optim.SGD(tensors, lr=0.1)
    scheduler = hdet.OneCycleAutoLR(
        optimizer, 0.1, 100, ensemble_lr_spread_ratio=1 / 9, model_sync_interval=10
    )
    return scheduler.converge


def busy_seconds() -> float:
    """Return the processors' seconds of all programs so far; 0 where Linux does not tell."""
    if not Path("/proc/stat").exists():
        return 0.0
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def timed(
    functions: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float]]:
    """Return seconds and processor seconds by name and round, and others' cores by round.

    Collective. Seconds are the slowest process's, processor seconds the mean of all.
    """
    spent: dict[str, list[float]] = {name: [] for name in functions}
    busy: dict[str, list[float]] = {name: [] for name in functions}

    def watched(name: str) -> Callable[[], None]:
        def call() -> None:
            before, began = busy_seconds(), time.process_time()
            functions[name]()
            spent[name].append(time.process_time() - began)
            busy[name].append(busy_seconds() - before)

        return call

    seconds = in_turns({name: watched(name) for name in functions}, rounds)
    own = torch.tensor([spent[name][1:] for name in functions], dtype=torch.float64)
    dist.all_reduce(own)
    all_busy = torch.tensor([busy[name][1:] for name in functions], dtype=torch.float64)
    took = torch.tensor([seconds[name] for name in functions], dtype=torch.float64)
    others = ((all_busy.sum(0) - own.sum(0)) / took.sum(0)).clamp(min=0)
    own /= dist.get_world_size()
    return seconds, dict(zip(functions, own.tolist(), strict=True)), others.tolist()


def seen(seconds: dict[str, list[float]], turn: int) -> Measured:
    """Return what a round says of the parts."""
    at = {name: times[turn] for name, times in seconds.items()}
    latency, per_byte = fit_line(SIZES, [at[f"wire {size}"] for size in SIZES])
    small = at[f"wire {SIZES[0]}"]
    moved = 2 * 4 * COPIED * COPIES
    rates = Rates(memory=moved / at["memory"], cache=moved / at["cache"])
    # Its two collectives are counted apart.
    piece = max(0.0, at["ones"] - 2 * small) / ONES
    return Measured(small, latency, per_byte, rates, piece)


def middle(values: list[float]) -> dict[str, float]:
    """Return median and standard error."""
    error = 1.2533 * statistics.stdev(values) / len(values) ** 0.5
    return {"median": statistics.median(values), "error": error}


def check(
    seconds: dict[str, list[float]], work: dict[str, list[float]], others: list[float]
) -> dict:
    """Return the parts, and every case's predictions beside what was measured."""
    processes = dist.get_world_size()
    alone = [turn for turn, cores in enumerate(others) if cores <= QUIET]
    quiet = alone if len(alone) >= FEW else range(len(others))
    cores = [(os.cpu_count() or 1) - others[turn] for turn in quiet]
    seconds, work = ({k: [v[t] for t in quiet] for k, v in d.items()} for d in (seconds, work))
    turns = [(seen(seconds, turn), seen(work, turn)) for turn in range(len(quiet))]
    found = {}
    for name, load in CASES.items():
        lists: dict[str, list[float]] = {"time": seconds[name], "work": work[name]}
        for kind in ("wire", "path", "shared", "work predicted"):
            lists[kind] = []
        for (of_time, of_work), given in zip(turns, cores, strict=True):
            by_time, by_work = predict(load, of_time), predict(load, of_work)
            lists["wire"].append(by_time.wire)
            lists["path"].append(by_time.path)
            lists["shared"].append(
                on_shared_cores(by_time.path, by_work.work, processes, given)
            )
            lists["work predicted"].append(by_work.work)
        found[name] = {
            "ms": statistics.median(seconds[name]) * 1e3,
            "predicted ms": statistics.median(lists["shared"]) * 1e3,
            "processor ms": statistics.median(work[name]) * 1e3,
            **{kind: ratios(lists, kind, "time") for kind in ("wire", "path", "shared")},
            "work": ratios(lists, "work predicted", "work"),
        }
    measured = [of_time for of_time, _ in turns]
    return {
        "rounds": len(quiet),
        "quiet": len(alone) >= FEW,
        "cores": middle(cores),
        "small ms": middle([1e3 * m.small for m in measured]),
        "latency ms": middle([1e3 * m.latency for m in measured]),
        "wire GB/s": middle([1e-9 / m.per_byte for m in measured]),
        "memory GB/s": middle([1e-9 * m.rates.memory for m in measured]),
        "cache GB/s": middle([1e-9 * m.rates.cache for m in measured]),
        "piece us": middle([1e6 * m.piece for m in measured]),
        "ring": ratios(work, f"wire {BUCKET_BYTES}", "pair"),
        "cases": found,
    }


def store_request(times: int = 200) -> float:
    """Return the seconds of a TCP store for one request, when all processes ask at once."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    port: list[int] = [0]
    first = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    if rank == 0:
        port = [first.port]
    dist.broadcast_object_list(port, 0)
    store = first if rank == 0 else dist.TCPStore("127.0.0.1", port[0], is_master=False)
    dist.barrier()
    began = time.perf_counter()
    for _ in range(times):
        store.add("key", 1)
    dist.barrier()
    return (time.perf_counter() - began) / times / processes


def measure(rounds: int, folder: str) -> None:
    """Measure on every rank; rank 0 writes what was found."""
    requests = middle([1e6 * store_request() for _ in range(rounds)])
    functions = parts() | {name: averaging(load) for name, load in CASES.items()}
    found = check(*timed(functions, rounds)) | {"request us": requests}
    if dist.get_rank() == 0:
        Path(folder, f"{dist.get_world_size()}.json").write_text(json.dumps(found))


def command(
    rounds: Annotated[
        int, typer.Option(min=4, help="In which everything takes its turn.")
    ] = 21,
) -> None:
    """Check the model of a sync's cost against gloo, and ask it about large clusters."""
    began, found = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (2, 4):
            # Once more if other programs were in the way, as long as there is time.
            while not found.get(ranks, {}).get("quiet"):
                on_ranks(measure, ranks, rounds, folder)
                found[ranks] = json.loads(Path(folder, f"{ranks}.json").read_text())
                if time.perf_counter() - began > PATIENCE * ranks:
                    break
    seconds = time.perf_counter() - began
    content = {"rounds": rounds, "seconds": seconds, "processes": found, **tables(Cluster())}
    write_record("cost", "python -m benchmarks cost", content)
    for n, one in found.items():
        for name, case in one["cases"].items():
            kinds = ("wire", "path", "shared", "work")
            ratios = [f"{kind} {case[kind]['median']:.2f}" for kind in kinds]
            print(f"{n} processes, {name}: {case['ms']:.0f} ms", *ratios)
