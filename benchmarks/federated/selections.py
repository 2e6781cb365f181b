"""Who is asked to train: every selector's runs, and their differences to Random's.

A row is a selector at one strength of FedProx's term on one task, over the seeds that it and
Random have both finished. Three numbers decide: the mean accuracy over the last rounds, its
standard deviation over the late ones (a curve that still rises has some of that, too), and
the accuracy of the worst class. The others are there because papers report them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .paired import Interval, Speed, differences, interval, ratio, speed
from .units import MU_SELECTORS, MUS, RANDOM, SELECTORS, TASKS, Folder
from .units import units as planned

OURS = "hetero-select"
# FedProx's mu where selectors are compared.
MU = 0.1
DECIDING = ("last", "late_deviation", "worst_class")
MEASURES = (*DECIDING, "peak", "final", "drop", "fairness", "bytes_down", "bytes_up", "probed")
# Of these less is better.
LESS = ("late_deviation", "drop", "bytes_down", "bytes_up", "probed")

# Runs by task, mu, selector and seed.
Runs = Mapping[tuple[str, float, str, int], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A selector on one task.

    Attributes:
        task: name of the task.
        mu: strength of FedProx's term.
        selector: name of the selector.
        label: how tables call it.
        seeds: which there are.
        values: by measure, by seed.
        means: of the measures.
        against: less Random's, by measure.
        speed: rounds to Random's accuracy.
        diverged: how many runs did.
    """

    task: str
    mu: float
    selector: str
    label: str
    seeds: list[int]
    values: dict[str, list[float]]
    means: dict[str, Interval]
    against: dict[str, Interval]
    speed: Speed
    diverged: int


def runs(folder: Folder) -> Runs:
    """Return the finished runs of both experiments of selection."""
    results = folder.results()
    found = {}
    for unit in planned(folder.plan()):
        if unit.experiment != "rates" and unit.key in results:
            s = unit.settings
            found[s.task, s.proximal_mu, s.selector, s.seed] = results[unit.key]
    return found


def rows(folder: Folder) -> list[Row]:
    """Return a row for each task and selector with a finished seed, in order."""
    places = ((task, MU, name) for task in TASKS["selection"] for name in SELECTORS)
    return _rows(folder, places)


def mu_rows(folder: Folder) -> list[Row]:
    """Return rows of the selectors that have run at several mu, by task and mu.

    Those at the `MU` of the other experiment are part of it; empty if there is no other mu.
    """
    if "mu" not in folder.plan().experiments:
        return []
    mus = sorted({*MUS, MU})
    places = ((task, mu, name) for task in TASKS["mu"] for mu in mus for name in MU_SELECTORS)
    return _rows(folder, places)


def difference(row: Row, other: Row, measure: str) -> Interval:
    """Return a row less another over the seeds of both."""
    both = [seed for seed in row.seeds if seed in other.seeds]
    mine, its = (
        [one.values[measure][one.seeds.index(seed)] for seed in both] for one in (row, other)
    )
    return differences(mine, its)


def better(row: Row, other: Row, measure: str) -> Interval:
    """Return by how much a row is better than another: above zero where it is."""
    pair = (other, row) if measure in LESS else (row, other)
    return difference(*pair, measure)


def _rows(folder: Folder, places: Iterable[tuple[str, float, str]]) -> list[Row]:
    found = runs(folder)
    made = [_row(found, *place) for place in places]
    return [row for row in made if row.seeds]


def _row(found: Runs, task: str, mu: float, selector: str) -> Row:
    every, both = sorted({seed for *_, seed in found}), (selector, RANDOM)
    seeds = [k for k in every if {(task, mu, name, k) for name in both} <= found.keys()]
    mine = [found[task, mu, selector, seed] for seed in seeds]
    plain = [found[task, mu, RANDOM, seed] for seed in seeds]
    values = {name: [float(run[name]) for run in mine] for name in MEASURES}
    pairs = zip(plain, mine, strict=True)
    return Row(
        task,
        mu,
        selector,
        SELECTORS[selector],
        seeds,
        values,
        means={name: interval(row) for name, row in values.items()},
        against={
            name: differences(row, [float(run[name]) for run in plain])
            for name, row in values.items()
        },
        speed=speed(ratio(its["accuracies"], run["accuracies"]) for its, run in pairs),
        diverged=sum(run["diverged"] for run in mine),
    )
