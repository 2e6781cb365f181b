"""What a user asks for, and doing its runs, one process per core."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..core.units import do_runs
from ..tasks import Task
from . import engine
from .loop import OTHER_BATCHES, plain, rerun
from .methods import LABELS, PLAIN, all_methods
from .problems import PROBLEMS, Method, Problem
from .problems import load as load_task
from .runs import FULL, RERUN, SWEEP, TIERS, Batch, Folder, Runs, Settings, Unit, start_label


def plan(
    problems: Sequence[str] = (),
    methods: Sequence[str] = (),
    starts: Sequence[float] = (),
    seeds: int | None = None,
    tier: str = FULL,
) -> Settings:
    """Return the settings that a user asks for.

    Args:
        problems: names of problems; empty for the tier's.
        methods: names of methods; empty for all.
        starts: multiples of the best rate, above 0, each once; empty for the tier's.
        seeds: runs of each, at least 1; None for the tier's.
        tier: a key of `TIERS`.

    Raises:
        ValueError: naming the option, the value, and what to write.
    """
    if tier not in TIERS:
        raise ValueError(f"--tier {tier!r} must be one of {', '.join(TIERS)}.")
    of_tier, at, times = TIERS[tier]
    starts = starts or at
    if not all(0 < start < math.inf for start in starts):
        given = ",".join(f"{start:g}" for start in starts)
        raise ValueError(f"--starts {given!r} must be numbers above 0: try 1/10,1,10.")
    labels = [start_label(start) for start in starts]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--starts {','.join(labels)} names one twice: leave it out.")
    return Settings(
        problems=[p for name, p in PROBLEMS.items() if name in (problems or of_tier)],
        methods=[name for name in LABELS if not methods or name in methods],
        starts=sorted(starts),
        seeds=times if seeds is None else seeds,
        sweep=list(SWEEP),
        tier=tier,
    )


Methods = Callable[[], Mapping[str, Method]]
Load = Callable[[Problem], Task]


def every_method() -> dict[str, Method]:
    """Return the methods by name, and what the sweep and the noise need."""
    return {**all_methods(), PLAIN: plain, RERUN: rerun}


def run_all(
    folder: Folder,
    processes: int | None = None,
    methods: Methods = every_method,
    load: Load = load_task,
) -> None:
    """Do every run that has no result yet, and show progress.

    Args:
        folder: a folder that was created.
        processes: how many at once; None for the machine's cores.
        methods: gives the methods by name; a function of a module, as is `load`, so that
            it can be named to another process.
        load: gives a problem's task with its data.

    Raises:
        ValueError: if a sweep found no rate that trains.
        WorkerError: if a run failed.
    """
    while todo := Runs(folder).unfinished():
        do_runs(folder, todo, _outcome, processes, (_set_up, methods, load))


# What a worker keeps between its runs; the parent's stay empty.
_given: dict[str, Callable] = {}
_tasks: dict[str, Task] = {}


def _set_up(methods: Methods, load: Load) -> None:
    _given.update(methods=methods, load=load)


def _outcome(unit: Unit | Batch) -> dict[str, Any]:
    problem = (unit.units[0] if isinstance(unit, Batch) else unit).problem
    if problem.name not in _tasks:
        _tasks[problem.name] = _given["load"](problem)
    task = _tasks[problem.name]
    if isinstance(unit, Unit):
        method: Method = _given["methods"]()[unit.method]
        return {"lr": unit.lr, **vars(method(problem, task, unit.lr, unit.seed))}
    rows = [
        engine.Row(one.lr, one.seed, one.seed + OTHER_BATCHES * (one.method == RERUN))
        for one in unit.units
    ]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = engine.run(engine.Engine(problem, task, device), rows)
    return {
        one.key: {"lr": one.lr, **vars(outcome)}
        for one, outcome in zip(unit.units, found, strict=True)
    }
