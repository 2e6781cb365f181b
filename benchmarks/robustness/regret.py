"""Regret: how much worse a run ends than the best rate of a sweep would have.

    regret = mean held-out loss over seeds / reference - 1, in percent
    reference = the lowest mean held-out loss of plain DDP, over the sweep and the starts

The error bar is the standard error of the same ratio taken seed by seed, each against the
reference row's loss of that seed: seeds share weights and batches, so most of what differs
between them drops out. The best of many rows is chosen after the fact, which flatters the
reference and makes all regrets a little too large.

A run that diverged has an infinite regret, and so has every mean it is part of: it is
counted and shown, and a median stands beside, but it is never averaged away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from .methods import LABELS, PLAIN
from .problems import Problem
from .units import Folder, best_point, start_place, sweep_lr, sweep_place, sweep_points

# Percent: what the worst start may cost, and what counts as robust.
TOLERANCE = 2.0


@dataclass(frozen=True)
class Reference:
    """What a problem's regrets are measured against.

    Attributes:
        problem: its name.
        best_lr: the sweep's best peak rate, which the starts are multiples of.
        loss: the lowest mean held-out loss of plain DDP.
        by_seed: the losses of the row that has it.
        at_edge: whether the best rate is the outermost of the sweep even so.
        sweep: mean held-out loss by rate; infinite where a seed diverged.
    """

    problem: str
    best_lr: float
    loss: float
    by_seed: list[float]
    at_edge: bool
    sweep: dict[float, float]


@dataclass(frozen=True)
class Cell:
    """A method from one start, over seeds; in percent.

    Attributes:
        start: the initial peak rate as a multiple of the best.
        regret: of the mean loss; infinite if a seed diverged.
        error: its standard error; NaN with one seed, or if one diverged.
        middle: median of the seeds' regrets.
        diverged: how many seeds did.
        seeds: how many there are.
    """

    start: float
    regret: float
    error: float
    middle: float
    diverged: int
    seeds: int


@dataclass(frozen=True)
class Row:
    """A method on one problem, over starts; in percent.

    Attributes:
        problem: name of the problem.
        method: name of the method.
        label: how tables call it.
        cells: by start, in order.
        mean: over starts.
        median: over starts.
        worst: over starts.
        diverged: how many runs did, of all starts and seeds.
        runs: how many there are.
    """

    problem: str
    method: str
    label: str
    cells: list[Cell]
    mean: float
    median: float
    worst: float
    diverged: int
    runs: int


@dataclass(frozen=True)
class Standing:
    """A method over problems and starts; in percent.

    Attributes:
        method: its name.
        label: how tables call it.
        problems: how many it has run.
        mean: over problems and starts.
        median: the same.
        worst: the same.
        worst_at: problem and start of the worst.
        within: share of problems and starts with a regret of at most `TOLERANCE`, 0 to 1.
        at_best: regret from the best rate by problem; empty if no start is 1.
        diverged: how many runs did.
        runs: how many there are.
    """

    method: str
    label: str
    problems: int
    mean: float
    median: float
    worst: float
    worst_at: tuple[str, float]
    within: float
    at_best: dict[str, float]
    diverged: int
    runs: int


def reference(folder: Folder, problem: Problem) -> Reference | None:
    """Return what a problem's regrets are measured against; None until the sweep is done.

    Raises:
        ValueError: if no rate of the sweep trains, or the best loss is not above 0.
    """
    best = best_point(folder, problem)
    if best is None:
        return None
    points = sweep_points(folder, problem)
    swept = {p: folder.losses(problem.name, PLAIN, sweep_place(p)) or [] for p in points}
    starts = [start_place(PLAIN, start) for start in folder.settings().starts]
    begun = [folder.losses(problem.name, PLAIN, place) for place in starts]
    rows = [row for row in [*swept.values(), *begun] if row]
    chosen = min(rows, key=_mean)
    if _mean(chosen) <= 0:
        raise ValueError(
            f"the best loss on {problem.name} is {_mean(chosen):g}, and a regret is a ratio "
            f"of losses above 0: give the task a loss that stays above 0."
        )
    sweep = {sweep_lr(problem, point): _mean(row) for point, row in swept.items()}
    edge = best in (points[0], points[-1])
    return Reference(problem.name, sweep_lr(problem, best), _mean(chosen), chosen, edge, sweep)


def references(folder: Folder) -> list[Reference]:
    """Return the references of the problems whose sweep is done, in order."""
    found = [reference(folder, problem) for problem in folder.settings().problems]
    return [one for one in found if one is not None]


def cell(start: float, losses: Sequence[float], against: Reference) -> Cell:
    """Return the regret of one start; see the module's head for the rule."""
    by_seed = [_percent(loss, best) for loss, best in zip(losses, against.by_seed, strict=True)]
    diverged = sum(map(math.isinf, by_seed))
    regret = _percent(_mean(losses), against.loss)
    error = math.nan
    if not diverged and len(by_seed) > 1 and math.isfinite(regret):
        error = stdev(by_seed) / math.sqrt(len(by_seed))
    return Cell(start, regret, error, median(by_seed), diverged, len(by_seed))


def rows(folder: Folder) -> list[Row]:
    """Return a row for each problem and method with a finished start, in order."""
    settings, made = folder.settings(), []
    for against in references(folder):
        for method in settings.methods:
            found = [
                (start, folder.losses(against.problem, method, start_place(method, start)))
                for start in settings.starts
            ]
            cells = [cell(start, losses, against) for start, losses in found if losses]
            if cells:
                made.append(_row(against.problem, method, cells))
    return made


def standings(rows: Sequence[Row]) -> list[Standing]:
    """Return each method over its problems, in the order of the rows."""
    made = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        cells = [(row.problem, cell) for row in mine for cell in row.cells]
        regrets = [cell.regret for _, cell in cells]
        problem, worst = max(cells, key=lambda pair: pair[1].regret)
        made.append(
            Standing(
                method=method,
                label=mine[0].label,
                problems=len(mine),
                mean=_mean(regrets),
                median=median(regrets),
                worst=worst.regret,
                worst_at=(problem, worst.start),
                within=fmean(regret <= TOLERANCE for regret in regrets),
                at_best={name: c.regret for name, c in cells if c.start == 1},
                diverged=sum(row.diverged for row in mine),
                runs=sum(row.runs for row in mine),
            )
        )
    return made


def _row(problem: str, method: str, cells: list[Cell]) -> Row:
    regrets = [one.regret for one in cells]
    return Row(
        problem,
        method,
        LABELS.get(method, method),
        cells,
        mean=_mean(regrets),
        median=median(regrets),
        worst=max(regrets),
        diverged=sum(one.diverged for one in cells),
        runs=sum(one.seeds for one in cells),
    )


def _percent(loss: float, best: float) -> float:
    """Return a regret in percent; infinite for what is not finite."""
    regret = 100 * (loss / best - 1) if math.isfinite(loss) and best > 0 else math.inf
    return regret if math.isfinite(regret) else math.inf


def _mean(values: Sequence[float]) -> float:
    """Return the mean; infinite if a value is not finite, or their sum is not."""
    if not all(map(math.isfinite, values)):
        return math.inf
    try:
        return fmean(values)
    except OverflowError:
        return math.inf
