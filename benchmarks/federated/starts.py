"""The grid of starts: how accurate each strategy is from every pair of initial rates.

A run is judged by its mean accuracy over the last rounds. A strategy's gain in a cell is its
mean difference to FedAvg from the same two rates, seed by seed; its worst cell is the one
with the lowest mean. Only whole grids count, of seeds for which FedAvg's is whole, too: a
benchmark that is under way has fewer seeds, and no half grids.

How much faster a run is: the target is what FedAvg's run has over its last rounds, and the
ratio is FedAvg's own first round at the target over the other's, so that more than 1 is
faster. A run that never gets there has the ratio 0. A run of FedAvg that learned nothing sets
no target.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from ..core.statistics import Estimate, estimate
from .methods import PLAIN, STRATEGIES
from .study import GLOBAL_RATES, LAST, LOCAL_RATES, TASKS

OURS = "fedhyper"
BASELINES = (PLAIN, "fedexp", "fedadam", "decay-sl", "delta-sgd", "delta-sgd-paper")
CELLS = pd.MultiIndex.from_product(
    [LOCAL_RATES, GLOBAL_RATES], names=["local_rate", "global_rate"]
)
# Percent; ten classes guessed give ten. Below, reaching a target says nothing.
LEARNED = 15.0
# Accuracies have two decimals, and the mean of ten equal ones must not be above them.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Starts:
    """One strategy on one task; the tables have a row for each seed, a column for each cell.

    Attributes:
        task: name of the task.
        strategy: name of the strategy.
        last: accuracy of the last rounds, in percent.
        plain: FedAvg's, of the same seeds.
        diverged: whether a run did.
        ratios: how many times fewer rounds to FedAvg's accuracy; NaN without a target.
    """

    task: str
    strategy: str
    last: pd.DataFrame
    plain: pd.DataFrame
    diverged: pd.DataFrame
    ratios: pd.DataFrame

    @property
    def label(self) -> str:
        """How tables call it."""
        return STRATEGIES[self.strategy][0]

    @property
    def by_seed(self) -> pd.Series:
        """Mean accuracy over the grid."""
        return self.last.mean(axis=1)

    @property
    def mean(self) -> Estimate:
        """That, over the seeds."""
        return estimate(self.by_seed)

    @property
    def gain(self) -> Estimate:
        """Over FedAvg, of the grid's means."""
        return paired(self.by_seed, self.plain.mean(axis=1))

    @cached_property
    def gains(self) -> dict[tuple[float, float], Estimate]:
        """Over FedAvg, cell by cell."""
        return {cell: paired(self.last[cell], self.plain[cell]) for cell in CELLS}

    @property
    def gains_by_local_rate(self) -> dict[float, float]:
        """Mean gain over the server's rates."""
        return {
            beta: fmean(self.gains[beta, alpha].mean for alpha in GLOBAL_RATES)
            for beta in LOCAL_RATES
        }

    def clear(self, sign: int) -> int:
        """Return in how many cells the gain's interval is above (1) or below (-1) zero."""
        return sum(gain.sign == sign for gain in self.gains.values())

    @property
    def lowest(self) -> tuple[float, float]:
        """The cell with the lowest gain."""
        return min(CELLS, key=lambda cell: self.gains[cell].mean)

    @property
    def cells(self) -> pd.Series:
        """Mean accuracy over seeds, cell by cell."""
        return self.last.mean()

    @property
    def worst_accuracy(self) -> float:
        """Of the worst cell."""
        return float(self.cells.min())

    @property
    def best_accuracy(self) -> float:
        """Of the best cell."""
        return float(self.cells.max())

    @property
    def worst(self) -> tuple[float, float]:
        """The cell with the lowest accuracy."""
        return self.cells.idxmin()  # pyright: ignore[reportReturnType]

    @property
    def faster_by_seed(self) -> Estimate:
        """Median ratio of each seed's cells, over the seeds."""
        return estimate(self.ratios.median(axis=1))


# By task and strategy.
Grid = Mapping[str, Mapping[str, Starts]]


def starts(runs: pd.DataFrame) -> Grid:
    """Return every task and strategy with a whole grid, in order.

    Args:
        runs: as `analysis.runs` gives them.
    """
    rates = runs[runs["experiment"] == "rates"]

    def grids(value: str) -> Mapping[Any, pd.DataFrame]:
        index, columns = ["task", "strategy", "seed"], list(CELLS.names)
        wide = rates.pivot(index=index, columns=columns, values=value)
        whole = wide.reindex(columns=CELLS).dropna()
        return {key: rows.droplevel([0, 1]) for key, rows in whole.groupby(level=[0, 1])}

    last, accuracies, diverged = map(grids, ("last", "accuracies", "diverged"))
    made: dict[str, dict[str, Starts]] = {}
    for task, strategy in product(TASKS["rates"], STRATEGIES):
        mine, plain = (task, strategy), (task, PLAIN)
        if mine in last and plain in last:
            seeds = last[mine].index.intersection(last[plain].index)
            lines = (accuracies[which].loc[seeds].to_numpy().flat for which in (plain, mine))
            ratios = [ratio(*pair) for pair in zip(*lines, strict=True)]
            if len(seeds):
                made.setdefault(task, {})[strategy] = Starts(
                    task,
                    strategy,
                    last[mine].loc[seeds],
                    last[plain].loc[seeds],
                    diverged[mine].loc[seeds],
                    pd.DataFrame(np.reshape(ratios, (-1, len(CELLS))), seeds, CELLS),
                )
    return made


def worst_against(ours: Starts, other: Starts) -> Estimate:
    """Return our worst cell's accuracy less another strategy's, over the seeds of both.

    Which cells are the worst is chosen by the mean over seeds, and so after the fact.
    """
    return paired(ours.last[ours.worst], other.last[other.worst])


def paired(those: Any, others: Any) -> Estimate:
    """Return `those` minus `others`, series by seed, over the seeds of both."""
    return estimate((those - others).dropna())


def ratio(plain: Sequence[float], other: Sequence[float]) -> float:
    """Return how many times fewer rounds a run needs; see the module's head.

    Args:
        plain: accuracies of FedAvg's run by round, in percent.
        other: those of the other run.

    Returns:
        The ratio; 0 if never, NaN if FedAvg's run sets no target.
    """
    target = fmean(plain[-LAST:])
    if target < LEARNED:
        return math.nan
    own, first = _first_round(plain, target), _first_round(other, target)
    return own / first if own and first else 0.0


def speed(ratios: pd.Series | pd.DataFrame) -> tuple[float, float]:
    """Return the median ratio of the runs that get there, and the share that they are."""
    found = ratios.to_numpy().ravel()
    found = found[~np.isnan(found)]
    if not found.size:
        return math.nan, math.nan
    there = found[found > 0]
    return float(np.median(there)) if there.size else math.nan, there.size / found.size


def _first_round(accuracies: Sequence[float], target: float) -> int | None:
    """Return the first round, from 1, that has the target; None if none has."""
    at = (i for i, value in enumerate(accuracies, 1) if value >= target - _ROUNDING)
    return next(at, None)
