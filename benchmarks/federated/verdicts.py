"""What is wanted of our methods, against what was measured.

Each goal is a set of comparisons, every one a difference over seeds that is to be above a
threshold. It is reached if all means are, clear if all 95 % intervals are, and corrected if
the intervals are so wide that all comparisons of the experiment hold together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from . import grid, selections
from .paired import Interval
from .units import PLAIN, RANDOM, SELECTORS, STRATEGIES
from .words import between, place, share, signed, times

# What FedHyper's authors report: points of accuracy over FedAvg, and times fewer rounds.
PAPER_GAIN = (2.2, 3.6)
PAPER_SPEED = (1.1, 3.0)
# Points that a cell may be below FedAvg.
TOLERANCE = 0.5
RIVALS = (RANDOM, "power-of-choice", "oort", "oort-without-system")
WANTED = {
    "last": "a higher accuracy of the last rounds than every rival",
    "late_deviation": "a lower late standard deviation than every rival",
    "worst_class": "a higher accuracy of the worst class than every rival",
}


@dataclass(frozen=True)
class Comparison:
    """One difference and what it is to be above."""

    difference: Interval
    threshold: float = 0.0


@dataclass(frozen=True)
class Goal:
    """What is wanted, in words, and the comparisons that it consists of."""

    task: str
    wanted: str
    measured: str
    comparisons: Sequence[Comparison]


@dataclass(frozen=True)
class Verdict:
    """A goal judged.

    Attributes:
        experiment: `rates` or `selection`.
        task: name of the task.
        wanted: in words.
        measured: in words and numbers.
        comparisons: how many it consists of.
        reached: whether all means are above their thresholds.
        clear: whether all 95 % intervals are.
        corrected: whether they are with Bonferroni's correction.
    """

    experiment: str
    task: str
    wanted: str
    measured: str
    comparisons: int
    reached: bool
    clear: bool
    corrected: bool


def verdicts(
    grid_rows: Sequence[grid.Row], selection_rows: Sequence[selections.Row]
) -> list[Verdict]:
    """Return what became of all goals; without our method on a task there are none."""
    made = []
    for experiment, goals in (
        ("rates", _grid_goals(grid_rows)),
        ("selection", _selection_goals(selection_rows)),
    ):
        total = sum(len(goal.comparisons) for goal in goals)
        made += [_judged(experiment, goal, total) for goal in goals]
    return made


def _judged(experiment: str, goal: Goal, total: int) -> Verdict:
    every = goal.comparisons
    return Verdict(
        experiment,
        goal.task,
        goal.wanted,
        goal.measured,
        len(every),
        reached=all(one.difference.mean > one.threshold for one in every),
        clear=all(one.difference.low > one.threshold for one in every),
        corrected=all(one.difference.lower(total) > one.threshold for one in every),
    )


def _grid_goals(rows: Sequence[grid.Row]) -> list[Goal]:
    found = []
    for ours in (row for row in rows if row.strategy == grid.OURS):
        others = {row.strategy: row for row in rows if row.task == ours.task}
        found += [_no_cell_below(ours), _mean_gain(ours), _fewer_rounds(ours)]
        known = [others[name] for name in grid.BASELINES if name in others]
        found.append(_worst_above(ours, known))
    return found


def _no_cell_below(ours: grid.Row) -> Goal:
    lowest, below = ours.lowest, sum(c.gain.mean < -TOLERANCE for c in ours.cells)
    sure = sum(c.gain.high < -TOLERANCE for c in ours.cells)
    return Goal(
        ours.task,
        f"no cell below {STRATEGIES[PLAIN]} by more than {TOLERANCE:g} points",
        f"{below} of {len(ours.cells)} are, {sure} clearly; lowest {signed(lowest.gain)} at "
        f"{place(lowest)}",
        [Comparison(cell.gain, -TOLERANCE) for cell in ours.cells],
    )


def _mean_gain(ours: grid.Row) -> Goal:
    low, high = PAPER_GAIN
    return Goal(
        ours.task,
        f"mean gain over the grid above {low:g} points; the paper has {low:g} to {high:g}",
        f"{signed(ours.gain)}; {between(ours.gain.mean, low, high)}",
        [Comparison(ours.gain, low)],
    )


def _fewer_rounds(ours: grid.Row) -> Goal:
    low, high = PAPER_SPEED
    found, plain = ours.speed_by_seed, STRATEGIES[PLAIN]
    return Goal(
        ours.task,
        f"over {low:g} times fewer rounds to {plain}'s accuracy; the paper has {low:g} to "
        f"{high:g}",
        f"{times(found)}, the mean of the seeds' medians; {share(ours.speed.share)} of the "
        f"runs reach it, the others count as 0; {between(found.mean, low, high)}",
        [Comparison(found, low)],
    )


def _worst_above(ours: grid.Row, others: Sequence[grid.Row]) -> Goal:
    against = {row.label: grid.worst_against(ours, row) for row in others}
    parts = [f"{label} {signed(found)}" for label, found in against.items()]
    return Goal(
        ours.task,
        "worst cell above the worst cell of every baseline",
        f"{ours.worst.accuracy:.1f} % at {place(ours.worst)}; less that of " + ", ".join(parts),
        [Comparison(found) for found in against.values()],
    )


def _selection_goals(rows: Sequence[selections.Row]) -> list[Goal]:
    found = []
    for ours in (row for row in rows if row.selector == selections.OURS):
        others = {row.selector: row for row in rows if row.task == ours.task}
        known = [others[name] for name in RIVALS if name in others]
        found += [_better(ours, known, measure) for measure in selections.DECIDING]
    return found


def _better(ours: selections.Row, rivals: Sequence[selections.Row], measure: str) -> Goal:
    against = {row.selector: selections.better(ours, row, measure) for row in rivals}
    parts = [f"{SELECTORS[name]} {signed(found)}" for name, found in against.items()]
    return Goal(
        ours.task,
        WANTED[measure],
        "how much better: than " + ", ".join(parts),
        [Comparison(found) for found in against.values()],
    )
