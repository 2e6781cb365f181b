"""What the methods reach: means over seeds, and ratios to MAID's loss seed by seed.

Losses are the upper level's at the exact solution of the lower level, whatever a method saw.
The ratio of two methods from one start is the geometric mean over seeds of

    r = loss of the other / loss of MAID,

more than 1 where MAID is lower; its interval is that of mean log r. A row is of the seeds that
have all starts, its own and MAID's: a benchmark that is under way has rows of fewer seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..federated.paired import Interval, interval
from .units import (
    FIXED,
    LABELS,
    OURS,
    PROTOTYPE_TASK,
    PROTOTYPES,
    STARTS,
    Folder,
    condition,
    units,
)

# One run's numbers.
Run = Mapping[str, Any]
# By experiment, task, method and seed; then by start.
Grids = dict[tuple[str, str, str, int], dict[float, Run]]


@dataclass(frozen=True)
class Cell:
    """A method on one task from one start.

    Attributes:
        start: eps0.
        losses: exact, by seed.
        loss: their mean.
        judged: what else the results are worth, by name, `loss` among them.
        log_ratio: of the losses to MAID's.
        steps: outer steps, the mean.
        failed_searches: likewise.
        cost: likewise.
        seconds: of the processor, likewise.
        milliseconds: of the processor for an outer step, likewise; NaN if none was made.
        stuck: runs that stopped before their budget was spent.
        failed: runs that came to where the lower level cannot be solved.
    """

    start: float
    losses: list[float]
    loss: Interval
    judged: dict[str, Interval]
    log_ratio: Interval
    steps: float
    failed_searches: float
    cost: float
    seconds: float
    milliseconds: float
    stuck: int
    failed: int


@dataclass(frozen=True)
class Row:
    """A method on one task.

    Attributes:
        task: name of the task.
        method: name of the method.
        label: how tables call it.
        seeds: which there are.
        cells: by start.
        spread: the largest loss of the starts over the smallest, less 1, over seeds.
    """

    task: str
    method: str
    label: str
    seeds: list[int]
    cells: list[Cell]
    spread: Interval

    @property
    def runs(self) -> int:
        """How many there are."""
        return len(self.cells) * len(self.seeds)


@dataclass(frozen=True)
class Hindsight:
    """The fixed accuracy that turned out best on a task.

    Attributes:
        task: name of the task.
        row: whose it is.
        cell: the best.
        log_ratios: of its losses to MAID's, by MAID's start.
    """

    task: str
    row: Row
    cell: Cell
    log_ratios: list[Interval]


def rows(folder: Folder) -> list[Row]:
    """Return a row for each task and method of the comparison, in order."""
    plan, grids = folder.plan(), runs(folder)
    labels = {name: LABELS.get(name, name) for name in plan.methods}
    return [
        row for task in plan.tasks for row in _rows_of(grids, "comparison", task, labels, OURS)
    ]


def prototypes(folder: Folder) -> list[Row]:
    """Return the rows of the paper's setting; ratios are to the first one's loss."""
    first, *_ = PROTOTYPES
    return _rows_of(runs(folder), "prototype", PROTOTYPE_TASK, PROTOTYPES, first)


def crossover_runs(folder: Folder) -> dict[tuple[int, str], Run]:
    """Return the runs of the crossover by condition number and method."""
    results = folder.results()
    return {
        (condition(unit), unit.method): results[unit.key]
        for unit in units(folder.plan())
        if unit.experiment == "crossover" and unit.key in results
    }


def hindsight(found: Sequence[Row]) -> list[Hindsight]:
    """Return the best fixed accuracy of each task, by its mean loss over seeds."""
    made = []
    for ours in (row for row in found if row.method == OURS):
        pairs = [
            (row, cell)
            for row in found
            if row.task == ours.task and row.method in FIXED and row.seeds == ours.seeds
            for cell in row.cells
            if not math.isnan(cell.loss.mean)
        ]
        if pairs:
            row, best = min(pairs, key=lambda pair: pair[1].loss.mean)
            ratios = [log_ratio(best.losses, cell.losses) for cell in ours.cells]
            made.append(Hindsight(ours.task, row, best, ratios))
    return made


def starts(folder: Folder) -> dict[str, dict[str, Any]]:
    """Return each task's title, parameters and budget, and what its starts are worth."""
    results, made = folder.results(), {}
    for unit in units(folder.plan()):
        run = results.get(unit.key)
        if unit.experiment == "comparison" and run is not None:
            task = made.setdefault(unit.task, {"by_seed": {}})
            task |= {"title": run["title"], "parameters": run["parameters"]}
            task["budget"] = unit.budget
            task["by_seed"][unit.seed] = run["start"]
    for task in made.values():
        each = list(task.pop("by_seed").values())
        task["start"] = {name: fmean(_numbers(each, name)) for name in each[0]}
    return made


def runs(folder: Folder) -> Grids:
    """Return the runs themselves where all starts of a seed are there."""
    results, grids = folder.results(), {}
    for unit in units(folder.plan()):
        if unit.key in results:
            name = (unit.experiment, unit.task, unit.method, unit.seed)
            grids.setdefault(name, {})[unit.start] = results[unit.key]
    return {name: grid for name, grid in grids.items() if grid.keys() >= set(STARTS)}


def log_ratio(those: Sequence[float], ours: Sequence[float]) -> Interval:
    """Return the mean of log(those / ours), seed by seed."""
    return interval([_log(a) - _log(b) for a, b in zip(those, ours, strict=True)])


def _rows_of(
    grids: Grids, experiment: str, task: str, labels: Mapping[str, str], reference: str
) -> list[Row]:
    made, every = [], sorted({seed for *_, seed in grids})
    for method, label in labels.items():
        mine, theirs = (
            {seed: grids[experiment, task, name, seed] for seed in every
             if (experiment, task, name, seed) in grids}
            for name in (method, reference)
        )  # fmt: skip
        seeds = [seed for seed in mine if seed in theirs]
        if seeds:
            both = [[grid[seed] for seed in seeds] for grid in (mine, theirs)]
            made.append(_row(task, method, label, seeds, *both))
    return made


def _row(
    task: str,
    method: str,
    label: str,
    seeds: list[int],
    mine: Sequence[Mapping[float, Run]],
    ours: Sequence[Mapping[float, Run]],
) -> Row:
    cells = [
        _cell(start, [grid[start] for grid in mine], [grid[start] for grid in ours])
        for start in STARTS
    ]
    by_seed = zip(*(cell.losses for cell in cells), strict=True)
    return Row(task, method, label, seeds, cells, interval([_spread(x) for x in by_seed]))


def _spread(losses: Sequence[float]) -> float:
    logs = [_log(loss) for loss in losses]
    return math.nan if any(map(math.isnan, logs)) else math.expm1(max(logs) - min(logs))


def _cell(start: float, mine: Sequence[Run], ours: Sequence[Run]) -> Cell:
    judged = [run["judged"] for run in mine]
    losses = _numbers(judged, "loss")

    def mean(value: Callable[[Run], float]) -> float:
        return fmean(value(run) for run in mine)

    steps = sum(run["steps"] for run in mine)
    seconds = mean(lambda run: run["seconds"])
    return Cell(
        start=start,
        losses=losses,
        loss=interval(losses),
        judged={name: interval(_numbers(judged, name)) for name in judged[0]},
        log_ratio=log_ratio(losses, _numbers([run["judged"] for run in ours], "loss")),
        steps=steps / len(mine),
        failed_searches=mean(lambda run: run["failed_searches"]),
        cost=mean(lambda run: run["cost"]),
        seconds=seconds,
        milliseconds=1000 * seconds * len(mine) / steps if steps else math.nan,
        stuck=sum(run["stuck"] for run in mine),
        failed=sum(bool(run["failure"]) for run in mine),
    )


def _numbers(judged: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return one number of each; NaN for what was not finite or could not be had."""
    found = [one.get(name) for one in judged]
    return [math.nan if value is None else value for value in found]


def _log(value: float) -> float:
    """Return the logarithm of a loss; one of zero counts as the smallest number."""
    return math.log(max(value, math.ulp(0.0))) if value == value else math.nan
