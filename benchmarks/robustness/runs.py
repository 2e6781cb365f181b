"""Which runs the benchmark needs, and those that are over.

What is to be run is a function of what is there: the sweep of plain DDP first, a half decade
more while its best rate lies at the edge, then a quarter of a decade to both sides of the
best; the starts and the noise once the best rate is known. So a run that was stopped goes on by
doing what has no result. In the fast tier all plain runs of a problem are one batch of models.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean, geometric_mean
from typing import Any

from hdet.errors import require, require_number, require_whole

from ..core.parsing import nan_for_null, require_name, require_names
from ..core.units import UnitFolder
from . import engine
from .methods import LABELS, PACKAGES, PLAIN, START_FREE
from .problems import CONFIRMATION, PROBLEMS, SCHEDULES, TUNING, Problem

STARTS = (1 / 30, 1 / 10, 1 / 3, 1.0, 3.0, 10.0, 30.0)
SWEEP = tuple(range(-6, 7, 2))  # quarter decades from the problem's centre
EXTENSIONS = 2
COMMAND = "python -m benchmarks robustness"
FAST, FULL = "fast", "full"
# What a tier runs if nothing is named: problems, starts and seeds.
TIERS: dict[str, tuple[list[str], tuple[float, ...], int]] = {
    FAST: ([p.name for p in PROBLEMS.values() if p.split == TUNING], (1 / 30, 1.0, 30.0), 2),
    FULL: (list(PROBLEMS), STARTS, 3),
}
RERUN = "rerun"  # plain DDP on other batches, which gives a problem's noise
# The control whose rate is the geometric mean of the best of all problems of its optimizer.
CALIBRATED = "calibrated"


@dataclass(frozen=True)
class Settings:
    """What was asked for; the content of `config.json`."""

    problems: list[Problem]  # as they were when the run began
    methods: list[str]  # in the order of the tables
    starts: list[float]  # initial peak rates, as multiples of the best rate
    seeds: int  # how many: 0 to seeds - 1
    sweep: list[int]  # rates, in quarter decades from the problem's centre
    tier: str  # `fast` or `full`

    def __post_init__(self) -> None:
        names = [problem.name for problem in self.problems]
        require_names("Settings", "problems", names, names)
        for problem in self.problems:
            require_name("Problem", "name", problem.name)
            require_whole("Problem", "steps", problem.steps, "raise it", low=1)
            require_whole("Problem", "batch_size", problem.batch_size, "raise it", low=0)
            require_number("Problem", "centre", problem.centre, "correct it", above=0)
            require_names("Problem", "schedule", [problem.schedule], SCHEDULES)
            require_names("Problem", "split", [problem.split], (TUNING, CONFIRMATION))
        require_names("Settings", "methods", self.methods, LABELS)
        require_names("Settings", "tier", [self.tier], TIERS)
        labels = [start_label(start) for start in self.starts if 0 < start < math.inf]
        good, rule = 0 < len(set(labels)) == len(self.starts), "must be above 0, each once"
        require(good, "Settings", "starts", self.starts, rule, "try 1/10,1,10")
        require_whole("Settings", "seeds", self.seeds, "try 3", low=1)
        good, rule = 0 < len(self.sweep) == len(set(self.sweep)), "must name some, each once"
        require(good, "Settings", "sweep", self.sweep, rule, "correct it")


@dataclass(frozen=True)
class Unit:
    """One run of one method."""

    problem: Problem
    method: str
    point: str  # `sweep+2`, `noise` or `start1/30`; `startany` where there is no initial rate
    lr: float  # the initial peak rate
    seed: int

    @property
    def key(self) -> str:
        """What tells the unit from all others."""
        return _key(self.problem.name, self.method, self.point, self.seed)

    def __str__(self) -> str:
        return f"{self.problem.name}, {self.method}, {self.point}, seed {self.seed}"


@dataclass(frozen=True)
class Batch:
    """Plain runs of one problem, done together."""

    units: list[Unit]

    @property
    def key(self) -> str:
        """The first run's."""
        return self.units[0].key

    def __str__(self) -> str:
        return f"{self.units[0].problem.name}, {len(self.units)} plain runs"


class Folder(UnitFolder[Settings]):
    """One run of the benchmark on disk."""

    plan_type, command = Settings, COMMAND
    packages = PACKAGES
    values = {
        "": {
            "held_out": float | None,
            "lr": float,
            "steps": list[int],
            "lrs": list[float | None],
            "seconds": float,
            "initial": float | None,
            "curve": list[list[float | None]],
            "forwards": float,
        }
    }

    def append(self, unit: Any, outcome: dict[str, Any]) -> None:
        """Write how a run went, or each of a batch."""
        if isinstance(unit, Batch):
            for one in unit.units:
                super().append(one, outcome[one.key])
        else:
            super().append(unit, outcome)


class Runs:
    """The runs of a folder that are over, read once."""

    def __init__(self, folder: Folder) -> None:
        self.settings = folder.plan()
        self._results = {key: nan_for_null(run) for key, run in folder.results().items()}

    def run(self, problem: str, method: str, point: str, seed: int) -> dict[str, Any] | None:
        """Return how a run went; None if it has not."""
        return self._results.get(_key(problem, method, point, seed))

    def seeds(self, problem: str, method: str, point: str) -> list[dict[str, Any]] | None:
        """Return how the runs of all seeds went; None until all are there."""
        runs = [self.run(problem, method, point, s) for s in range(self.settings.seeds)]
        return None if None in runs else [run for run in runs if run]

    def losses(self, problem: str, method: str, point: str) -> list[float] | None:
        """Return the held-out losses by seed, see `capped`; None until all are there."""
        runs = self.seeds(problem, method, point)
        return None if runs is None else [capped(run) for run in runs]

    def sweep_points(self, problem: Problem) -> list[int]:
        """Return the sweep's rates: those planned, more at the edge, and beside the best."""
        points = sorted(self.settings.sweep)
        for _ in range(EXTENSIONS):
            best = self._best_of(problem, points)
            if best == points[-1]:
                points.append(points[-1] + 2)
            elif best == points[0]:
                points.insert(0, points[0] - 2)
        best = self._best_of(problem, points)
        return sorted({*points, best - 1, best + 1}) if best is not None else points

    def best_point(self, problem: Problem) -> int | None:
        """Return the best rate of the sweep; None until the sweep is complete."""
        return self._best_of(problem, self.sweep_points(problem))

    def best_lr(self, problem: Problem) -> float | None:
        """Return the same as a rate."""
        best = self.best_point(problem)
        return None if best is None else sweep_lr(problem, best)

    def _best_of(self, problem: Problem, points: Sequence[int]) -> int | None:
        means: dict[int, float] = {}
        runs: list[dict[str, Any]] = []
        for point in points:
            found = self.seeds(problem.name, PLAIN, sweep_point(point))
            if found is None:
                return None
            means[point], runs = fmean(map(capped, found)), found
        best = min(means, key=lambda point: means[point])
        if not means[best] < fmean(run["initial"] for run in runs):
            raise ValueError(
                f"no rate of the sweep of {problem.name} (centre {problem.centre:g}) ends "
                f"below the loss of the initial weights: correct its `centre`, or leave it out "
                f"by --problems."
            )
        return best

    def units(self) -> tuple[list[Unit], int]:
        """Return the units that are known so far, and how many more will come at least."""
        known, later = [], 0
        seeds = range(self.settings.seeds)
        for problem in self.settings.problems:
            for point in self.sweep_points(problem):
                lr, name = sweep_lr(problem, point), sweep_point(point)
                known += [Unit(problem, PLAIN, name, lr, seed) for seed in seeds]
            best = self.best_lr(problem)
            for method, point, start in self._points():
                lr = self.calibrated(problem) if method == CALIBRATED else best
                if lr is None:
                    later += len(seeds)
                    continue
                known += [Unit(problem, method, point, start * lr, seed) for seed in seeds]
        return known, later

    def _points(self) -> list[tuple[str, str, float]]:
        """Return what each problem runs once its best rate is known: method, point, start."""
        points = [(RERUN, "noise", 1.0)]
        for method in self.settings.methods:
            starts = [1.0] if method in START_FREE | {CALIBRATED} else self.settings.starts
            points += [(method, start_point(method, start), start) for start in starts]
        return points

    def calibrated(self, problem: Problem) -> float | None:
        """Return the one rate for all problems of an optimizer; None until all are swept."""
        alike = [p for p in self.settings.problems if p.optimizer == problem.optimizer]
        best = [lr for lr in map(self.best_lr, alike) if lr is not None]
        return geometric_mean(best) if len(best) == len(alike) else None

    def unfinished(self) -> list[Unit | Batch]:
        """Return the known units without a result, those that take longest first."""
        known, _ = self.units()
        todo = [unit for unit in known if unit.key not in self._results]
        seconds: dict[str, list[float]] = {}
        for unit in known:
            # The sweep alone: a method's runs that diverge at once say nothing of the rest.
            run = self._results.get(unit.key)
            if run is not None and unit.point.startswith("sweep"):
                seconds.setdefault(unit.problem.name, []).append(run["seconds"])
        # A long run begun last would leave the other cores idle. Nothing is known at first.
        todo.sort(key=lambda u: -fmean(seconds.get(u.problem.name, [0.0])))
        return batched(todo) if self.settings.tier == FAST else list(todo)


def batched(todo: Sequence[Unit]) -> list[Unit | Batch]:
    """Return the same runs with all plain ones of a problem as one batch, those first."""
    together: dict[str, list[Unit]] = {}
    apart: list[Unit | Batch] = []
    for unit in todo:
        if unit.method in (PLAIN, RERUN) and engine.fits(unit.problem):
            together.setdefault(unit.problem.name, []).append(unit)
        else:
            apart.append(unit)
    return [*map(Batch, together.values()), *apart]


def capped(run: Mapping[str, Any]) -> float:
    """Return a run's held-out loss, and at most its initial weights': so that is a number."""
    return run["held_out"] if run["held_out"] < run["initial"] else run["initial"]


def _key(problem: str, method: str, point: str, seed: int) -> str:
    return f"{problem}|{method}|{point}|{seed}"


def start_label(start: float) -> str:
    """Return a multiple of the best rate as people write it, as in `1/30`."""
    part = Fraction(start).limit_denominator(10**6)
    return str(part) if part.numerator == 1 else f"{start:g}"


def start_point(method: str, start: float) -> str:
    """Return the name of a method's start; one for all if it has no initial rate."""
    free = method in START_FREE or method == CALIBRATED
    return f"start{'any' if free else start_label(start)}"


def sweep_point(point: int) -> str:
    """Return the name of a rate of the sweep."""
    return f"sweep{point:+d}"


def sweep_lr(problem: Problem, point: int) -> float:
    """Return a rate of the sweep."""
    return problem.centre * 10 ** (point / 4)
