"""The grid of starts: how accurate each strategy is from every pair of initial rates.

A run is judged by its mean accuracy over the last rounds. A strategy's gain in a cell is its
mean difference to FedAvg from the same two rates, seed by seed; its worst cell is the one
with the lowest mean. A row is of the seeds whose grids are complete, its own and FedAvg's: a
benchmark that is under way has rows of fewer seeds, and no half grids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..core.statistics import estimate
from .paired import Interval, Speed, differences, interval, ratio, speed
from .units import GLOBAL_RATES, LOCAL_RATES, PLAIN, STRATEGIES, TASKS, Folder, units

CELLS = [(beta, alpha) for beta in LOCAL_RATES for alpha in GLOBAL_RATES]
OURS = "fedhyper"
BASELINES = (PLAIN, "fedexp", "fedadam", "decay-sl", "delta-sgd", "delta-sgd-paper")

# A seed's runs by their initial rates.
Grid = Mapping[tuple[float, float], dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """A strategy from one pair of rates; accuracies in percent, gains in points.

    Attributes:
        local_rate: beta^0.
        global_rate: alpha^0.
        accuracy: mean over seeds.
        error: its standard error; NaN with one seed.
        by_seed: the accuracies.
        gain: over FedAvg.
        diverged: how many seeds did.
    """

    local_rate: float
    global_rate: float
    accuracy: float
    error: float
    by_seed: list[float]
    gain: Interval
    diverged: int


@dataclass(frozen=True)
class Row:
    """A strategy on one task.

    Attributes:
        task: name of the task.
        strategy: name of the strategy.
        label: how tables call it.
        seeds: which there are.
        cells: in the order of `CELLS`.
        by_seed: mean accuracy over the grid.
        mean: of that, over the seeds.
        gain: over FedAvg, of the grid's means.
        speed: rounds to FedAvg's accuracy, over cells and seeds.
        speed_by_seed: `Speed.all` of each seed's cells, over the seeds.
        diverged: how many runs did.
    """

    task: str
    strategy: str
    label: str
    seeds: list[int]
    cells: list[Cell]
    by_seed: list[float]
    mean: Interval
    gain: Interval
    speed: Speed
    speed_by_seed: Interval
    diverged: int

    @property
    def worst(self) -> Cell:
        """The cell with the lowest accuracy."""
        return min(self.cells, key=lambda cell: cell.accuracy)

    @property
    def best(self) -> Cell:
        """The cell with the highest accuracy."""
        return max(self.cells, key=lambda cell: cell.accuracy)

    @property
    def lowest(self) -> Cell:
        """The cell with the lowest gain."""
        return min(self.cells, key=lambda cell: cell.gain.mean)

    def clear(self, sign: int) -> int:
        """Return in how many cells the gain's interval is above (1) or below (-1) zero."""
        return sum(cell.gain.sign == sign for cell in self.cells)


def rows(folder: Folder) -> list[Row]:
    """Return a row for each task and strategy with a whole grid, in order."""
    grids, made = _grids(folder), []
    every = sorted({seed for _, _, seed in grids})
    for task in TASKS["rates"]:
        for strategy in STRATEGIES:
            both = (strategy, PLAIN)
            seeds = [k for k in every if {(task, name, k) for name in both} <= grids.keys()]
            if seeds:
                mine = [grids[task, strategy, seed] for seed in seeds]
                plain = [grids[task, PLAIN, seed] for seed in seeds]
                made.append(_row(task, strategy, seeds, mine, plain))
    return made


def mean_against(ours: Row, other: Row) -> Interval:
    """Return our mean over the grid less another strategy's, over the seeds of both."""
    return _against(ours, other, lambda row: row.by_seed)


def worst_against(ours: Row, other: Row) -> Interval:
    """Return our worst cell's accuracy less another strategy's, over the seeds of both.

    Which cells are the worst is chosen by the mean over seeds, and so after the fact.
    """
    return _against(ours, other, lambda row: row.worst.by_seed)


def gains_by_local_rate(row: Row) -> dict[float, float]:
    """Return the mean gain over the server's rates, by the clients' rate."""
    return {
        beta: fmean(cell.gain.mean for cell in row.cells if cell.local_rate == beta)
        for beta in LOCAL_RATES
    }


def _against(ours: Row, other: Row, values: Callable[[Row], Sequence[float]]) -> Interval:
    both = [seed for seed in ours.seeds if seed in other.seeds]
    mine, its = ([values(row)[row.seeds.index(seed)] for seed in both] for row in (ours, other))
    return differences(mine, its)


def _grids(folder: Folder) -> dict[tuple[str, str, int], Grid]:
    results = folder.results()
    found: dict[tuple[str, str, int], dict[tuple[float, float], dict[str, Any]]] = {}
    for unit in units(folder.plan()):
        if unit.experiment == "rates" and unit.key in results:
            s = unit.settings
            grid = found.setdefault((s.task, s.strategy, s.seed), {})
            grid[s.local_rate, s.global_rate] = results[unit.key]
    return {place: grid for place, grid in found.items() if len(grid) == len(CELLS)}


def _row(
    task: str,
    strategy: str,
    seeds: list[int],
    mine: Sequence[Grid],
    plain: Sequence[Grid],
) -> Row:
    cells = [_cell(place, mine, plain) for place in CELLS]
    pairs = list(zip(mine, plain, strict=True))
    ratios = [
        [ratio(its[place]["accuracies"], grid[place]["accuracies"]) for place in CELLS]
        for grid, its in pairs
    ]
    means = [[fmean(grid[p]["last"] for p in CELLS) for grid in one] for one in (mine, plain)]
    return Row(
        task,
        strategy,
        STRATEGIES[strategy],
        seeds,
        cells,
        means[0],
        mean=interval(means[0]),
        gain=differences(*means),
        speed=speed(one for seed in ratios for one in seed),
        speed_by_seed=interval([speed(seed).all for seed in ratios]),
        diverged=sum(cell.diverged for cell in cells),
    )


def _cell(place: tuple[float, float], mine: Sequence[Grid], plain: Sequence[Grid]) -> Cell:
    by_seed = [grid[place]["last"] for grid in mine]
    return Cell(
        *place,
        estimate(by_seed).mean,
        estimate(by_seed).error,
        by_seed,
        gain=differences(by_seed, [grid[place]["last"] for grid in plain]),
        diverged=sum(grid[place]["diverged"] for grid in mine),
    )
