"""Which runs the benchmark needs, and doing them, one process per core.

What is to be run is a function of what is there: the sweep of plain DDP first, half a
decade more while its best rate lies at the edge, and the starts once the best rate is
known. So a run that was stopped goes on by doing what has no result.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any

from hdet.errors import require, require_number, require_whole

from ..core.parsing import nan_for_null, require_name, require_names
from ..core.statistics import estimate
from ..core.units import UnitFolder, do_runs
from ..tasks import Task
from .methods import LABELS, PACKAGES, PLAIN, START_FREE, all_methods
from .problems import PROBLEMS, Method, Problem
from .problems import load as load_task

STARTS = (1 / 30, 1 / 10, 1 / 3, 1.0, 3.0, 10.0, 30.0)
SWEEP = tuple(range(-3, 4))
EXTENSIONS = 2
COMMAND = "python -m benchmarks robustness"


@dataclass(frozen=True)
class Settings:
    """What was asked for; the content of `config.json`."""

    problems: list[Problem]  # as they were when the run began
    methods: list[str]  # in the order of the tables
    starts: list[float]  # initial peak rates, as multiples of the best rate
    seeds: int  # how many: 0 to seeds - 1
    sweep: list[int]  # rates, in half decades from the problem's centre

    def __post_init__(self) -> None:
        names = [problem.name for problem in self.problems]
        require_names("Settings", "problems", names, names)
        for problem in self.problems:
            require_name("Problem", "name", problem.name)
            require_whole("Problem", "steps", problem.steps, "raise it", low=1)
            require_number("Problem", "centre", problem.centre, "correct it", above=0)
        require_names("Settings", "methods", self.methods, LABELS)
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
    point: str  # `sweep+1` or `start1/30`; `startany` for a method without an initial rate
    lr: float  # the initial peak rate
    seed: int

    @property
    def key(self) -> str:
        """What tells the unit from all others."""
        return _key(self.problem.name, self.method, self.point, self.seed)

    def __str__(self) -> str:
        return f"{self.problem.name}, {self.method}, {self.point}, seed {self.seed}"


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
        }
    }


class Runs:
    """The runs of a folder that are over, read once."""

    def __init__(self, folder: Folder) -> None:
        self.settings = folder.plan()
        self._results = {key: nan_for_null(run) for key, run in folder.results().items()}

    def run(self, problem: str, method: str, point: str, seed: int) -> dict[str, Any] | None:
        """Return how a run went; None if it has not."""
        return self._results.get(_key(problem, method, point, seed))

    def losses(self, problem: str, method: str, point: str) -> list[float] | None:
        """Return the held-out losses by seed, NaN if not finite; None until all are there."""
        runs = [self.run(problem, method, point, s) for s in range(self.settings.seeds)]
        return None if None in runs else [run["held_out"] for run in runs if run]

    def sweep_points(self, problem: Problem) -> list[int]:
        """Return the sweep's rates: those planned, and more if the best is outermost."""
        points = sorted(self.settings.sweep)
        for _ in range(EXTENSIONS):
            best = self._best_of(problem, points)
            if best == points[-1]:
                points.append(points[-1] + 1)
            elif best == points[0]:
                points.insert(0, points[0] - 1)
        return points

    def best_point(self, problem: Problem) -> int | None:
        """Return the best rate of the sweep; None until the sweep is complete."""
        return self._best_of(problem, self.sweep_points(problem))

    def _best_of(self, problem: Problem, points: Sequence[int]) -> int | None:
        means: dict[int, float] = {}
        for point in points:
            losses = self.losses(problem.name, PLAIN, sweep_point(point))
            if losses is None:
                return None
            mean = estimate(losses).mean
            # A rate that fails sometimes is no rate to recommend.
            means[point] = mean if math.isfinite(mean) else math.inf
        best = min(means, key=lambda point: means[point])
        if math.isinf(means[best]):
            raise ValueError(
                f"no rate of the sweep of {problem.name} (centre {problem.centre:g}) ends at a "
                f"finite loss with every seed: correct its `centre`, or leave it out by "
                f"--problems."
            )
        return best

    def units(self) -> tuple[list[Unit], int]:
        """Return the units that are known so far, and how many more will come at least."""
        settings, known, later = self.settings, [], 0
        seeds = range(settings.seeds)
        for problem in settings.problems:
            for point in self.sweep_points(problem):
                lr, name = sweep_lr(problem, point), sweep_point(point)
                known += [Unit(problem, PLAIN, name, lr, seed) for seed in seeds]
            starts = [
                (method, start)
                for method in settings.methods
                for start in ([1.0] if method in START_FREE else settings.starts)
            ]
            best = self.best_point(problem)
            if best is None:
                later += len(starts) * len(seeds)
                continue
            for method, start in starts:
                lr, name = start * sweep_lr(problem, best), start_point(method, start)
                known += [Unit(problem, method, name, lr, seed) for seed in seeds]
        return known, later

    def unfinished(self) -> list[Unit]:
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
        return sorted(todo, key=lambda u: -fmean(seconds.get(u.problem.name, [0.0])))


def _key(problem: str, method: str, point: str, seed: int) -> str:
    return f"{problem}|{method}|{point}|{seed}"


def start_label(start: float) -> str:
    """Return a multiple of the best rate as people write it, as in `1/30`."""
    part = Fraction(start).limit_denominator(10**6)
    return str(part) if part.numerator == 1 else f"{start:g}"


def start_point(method: str, start: float) -> str:
    """Return the name of a method's start; one for all if it has no initial rate."""
    return f"start{'any' if method in START_FREE else start_label(start)}"


def sweep_point(point: int) -> str:
    """Return the name of a rate of the sweep."""
    return f"sweep{point:+d}"


def sweep_lr(problem: Problem, point: int) -> float:
    """Return a rate of the sweep."""
    return problem.centre * 10 ** (point / 2)


def plan(
    problems: Sequence[str] = (),
    methods: Sequence[str] = (),
    starts: Sequence[float] = STARTS,
    seeds: int = 3,
) -> Settings:
    """Return the settings that a user asks for.

    Args:
        problems: names of problems; empty for all.
        methods: names of methods; empty for all.
        starts: multiples of the best rate, above 0, each once.
        seeds: runs of each, at least 1.

    Raises:
        ValueError: naming the option, the value, and what to write.
    """
    if not starts or not all(0 < start < math.inf for start in starts):
        given = ",".join(f"{start:g}" for start in starts)
        raise ValueError(f"--starts {given!r} must be numbers above 0: try 1/10,1,10.")
    labels = [start_label(start) for start in starts]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--starts {','.join(labels)} names one twice: leave it out.")
    return Settings(
        problems=[p for name, p in PROBLEMS.items() if not problems or name in problems],
        methods=[name for name in LABELS if not methods or name in methods],
        starts=sorted(starts),
        seeds=seeds,
        sweep=list(SWEEP),
    )


Methods = Callable[[], Mapping[str, Method]]
Load = Callable[[Problem], Task]


def run_all(
    folder: Folder,
    processes: int | None = None,
    methods: Methods = all_methods,
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
        runs = Runs(folder)
        for problem in runs.settings.problems:
            best = runs.best_point(problem)
            if best is not None and any(unit.point.startswith("sweep") for unit in todo):
                print(f"{problem.name}: best LR of plain DDP {sweep_lr(problem, best):.2g}")


# What a worker keeps between its runs; the parent's stay empty.
_given: dict[str, Callable] = {}
_tasks: dict[str, Task] = {}


def _set_up(methods: Methods, load: Load) -> None:
    _given.update(methods=methods, load=load)


def _outcome(unit: Unit) -> dict[str, Any]:
    problem = unit.problem
    if problem.task not in _tasks:
        _tasks[problem.task] = _given["load"](problem)
    method: Method = _given["methods"]()[unit.method]
    outcome = method(problem, _tasks[problem.task], unit.lr, unit.seed)
    return {"lr": unit.lr, **vars(outcome)}
