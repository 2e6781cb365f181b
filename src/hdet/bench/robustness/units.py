"""The run folder of `hdet bench robustness`, and which runs belong in it.

    <folder>/config.json, environment.json
    <folder>/runs/<problem>/ddp/sweep<k>/seed<s>.json       rate = centre x 10^(k/2)
    <folder>/runs/<problem>/<method>/start<f>/seed<s>.json  rate = best x f
    <folder>/runs/<problem>/<method>/startany/seed<s>.json  a method without initial rate
    <folder>/summary.json, plots/*.png, report.html

What is to be run is a function of what is there: the sweep of plain DDP first, half a
decade more while its best rate lies at the edge, and the starts once the best rate is
known. So a run that was stopped goes on by doing what has no result.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..records import environment, mean_and_error, write_json
from .methods import LABELS, PLAIN, START_FREE
from .problems import PROBLEMS, Outcome, Problem

STARTS = (1 / 30, 1 / 10, 1 / 3, 1.0, 3.0, 10.0, 30.0)
SWEEP = tuple(range(-3, 4))
EXTENSIONS = 2
# The peers' own, whose versions a result depends on as well.
PEER_PACKAGES = ("prodigyopt", "dadaptation", "schedulefree")


@dataclass(frozen=True)
class Settings:
    """What was asked for; the content of `config.json`.

    Attributes:
        problems: as they were when the run began.
        methods: their names, in the order of the tables.
        starts: initial peak rates, as multiples of the best rate.
        seeds: how many seeds, 0 to seeds - 1.
        sweep: rates of the sweep, in half decades from the problem's centre.
    """

    problems: list[Problem]
    methods: list[str]
    starts: list[float]
    seeds: int
    sweep: list[int]


@dataclass(frozen=True)
class Unit:
    """One run of one method.

    Attributes:
        problem: what it trains.
        method: name of the method.
        place: name of the folder among those of the method.
        start: the rate as a multiple of the best; None in the sweep, and for a method
            without an initial rate.
        lr: the initial peak rate.
        seed: of the weights and batches.
    """

    problem: Problem
    method: str
    place: str
    start: float | None
    lr: float
    seed: int

    def __str__(self) -> str:
        return f"{self.problem.name}, {self.method}, {self.place}, seed {self.seed}"


class Folder:
    """One run of the benchmark on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, settings: Settings) -> None:
        """Make the folder and write what was asked for."""
        write_json(self.path / "config.json", asdict(settings))
        versions = environment()
        versions["packages"] |= {name: _version(name) for name in PEER_PACKAGES}
        write_json(self.path / "environment.json", versions)

    def settings(self) -> Settings:
        """Read back what was asked for.

        Raises:
            ValueError: if this is not a folder of this benchmark.
        """
        try:
            raw = json.loads((self.path / "config.json").read_text())
            problems = [Problem(**problem) for problem in raw.pop("problems")]
            return Settings(problems=problems, **raw)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self.path} is not a run folder of `hdet bench robustness`: {error!r}. "
                f"Give the folder that the run printed."
            ) from error

    def environment(self) -> dict[str, Any]:
        """Read the versions and the machine."""
        return json.loads((self.path / "environment.json").read_text())

    def file(self, problem: str, method: str, place: str, seed: int) -> Path:
        """Return where the result of a run is, or will be."""
        return self.path / "runs" / problem / method / place / f"seed{seed}.json"

    def write(self, unit: Unit, outcome: Outcome) -> None:
        """Write how a run went; null stands for what is not finite."""
        content = {"held_out": outcome.held_out, "lr": unit.lr, "start": unit.start}
        content |= {"steps": outcome.steps, "lrs": outcome.lrs, "seconds": outcome.seconds}
        write_json(self.file(unit.problem.name, unit.method, unit.place, unit.seed), content)

    def outcome(self, problem: str, method: str, place: str, seed: int) -> Outcome | None:
        """Return how a run went; None if it has not. What was not finite is NaN."""
        file = self.file(problem, method, place, seed)
        if not file.exists():
            return None
        raw = json.loads(file.read_text())
        lrs = [math.nan if lr is None else lr for lr in raw["lrs"]]
        held_out = math.nan if raw["held_out"] is None else raw["held_out"]
        return Outcome(held_out, raw["steps"], lrs, raw["seconds"])

    def losses(self, problem: str, method: str, place: str) -> list[float] | None:
        """Return the held-out losses by seed, NaN if not finite; None until all are there."""
        seeds = range(self.settings().seeds)
        found = [self.outcome(problem, method, place, seed) for seed in seeds]
        return None if None in found else [run.held_out for run in found if run]


def start_label(start: float) -> str:
    """Return a multiple of the best rate as people write it, as in `1/30`."""
    part = Fraction(start).limit_denominator(10**6)
    return str(part) if part.numerator == 1 else f"{start:g}"


def start_place(method: str, start: float) -> str:
    """Return the folder of a method's start; one for all if it has no initial rate."""
    return f"start{'any' if method in START_FREE else start_label(start).replace('/', '-')}"


def sweep_place(point: int) -> str:
    """Return the folder of a rate of the sweep."""
    return f"sweep{point:+d}"


def sweep_lr(problem: Problem, point: int) -> float:
    """Return a rate of the sweep."""
    return problem.centre * 10 ** (point / 2)


def best_of_sweep(folder: Folder, problem: Problem, points: Sequence[int]) -> int | None:
    """Return where the mean loss is lowest; None until all of `points` have run.

    One seed that is not finite makes the mean infinite: a rate that fails sometimes is
    no rate to recommend.

    Raises:
        ValueError: if no rate has a finite mean.
    """
    means: dict[int, float] = {}
    for point in points:
        losses = folder.losses(problem.name, PLAIN, sweep_place(point))
        if losses is None:
            return None
        mean = mean_and_error(losses)[0]
        means[point] = mean if math.isfinite(mean) else math.inf
    best = min(means, key=lambda point: means[point])
    if math.isinf(means[best]):
        raise ValueError(
            f"no rate of the sweep of {problem.name} (centre {problem.centre:g}) ends at a "
            f"finite loss with every seed: correct its `centre`, or leave it out by "
            f"--problems."
        )
    return best


def sweep_points(folder: Folder, problem: Problem) -> list[int]:
    """Return the sweep's rates, in order: those planned, and more if the best is outermost."""
    points = sorted(folder.settings().sweep)
    for _ in range(EXTENSIONS):
        best = best_of_sweep(folder, problem, points)
        if best == points[-1]:
            points.append(points[-1] + 1)
        elif best == points[0]:
            points.insert(0, points[0] - 1)
    return points


def best_point(folder: Folder, problem: Problem) -> int | None:
    """Return the best rate's place in the sweep; None until the sweep is complete."""
    return best_of_sweep(folder, problem, sweep_points(folder, problem))


def units(folder: Folder) -> tuple[list[Unit], int]:
    """Return the runs that are known so far, and how many more will come at least.

    Raises:
        ValueError: if this is not a run folder, or a sweep found no rate that trains.
    """
    settings, known, later = folder.settings(), [], 0
    seeds = range(settings.seeds)
    for problem in settings.problems:
        for point in sweep_points(folder, problem):
            lr, place = sweep_lr(problem, point), sweep_place(point)
            known += [Unit(problem, PLAIN, place, None, lr, seed) for seed in seeds]
        starts = [
            (method, start)
            for method in settings.methods
            for start in ([None] if method in START_FREE else settings.starts)
        ]
        best = best_point(folder, problem)
        if best is None:
            later += len(starts) * len(seeds)
            continue
        for method, start in starts:
            factor = 1.0 if start is None else start
            lr, place = factor * sweep_lr(problem, best), start_place(method, factor)
            known += [Unit(problem, method, place, start, lr, seed) for seed in seeds]
    return known, later


def plan(
    problems: Sequence[str] = (),
    methods: Sequence[str] = (),
    starts: Sequence[float] = STARTS,
    seeds: int = 3,
) -> Settings:
    """Turn what the user asked for into settings, or say what cannot be.

    Args:
        problems: names of problems; empty for all.
        methods: names of methods; empty for all.
        starts: multiples of the best rate, above 0, each once.
        seeds: runs of each, at least 1.

    Raises:
        ValueError: naming the argument, the value, and what to write.
    """
    for option, given, known in (
        ("--problems", problems, PROBLEMS),
        ("--methods", methods, LABELS),
    ):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(
                f"{option}: there is no {', '.join(unknown)}: choose from {', '.join(known)}."
            )
    if not starts or not all(0 < start < math.inf for start in starts):
        given = ",".join(f"{start:g}" for start in starts)
        raise ValueError(f"--starts {given!r} must be numbers above 0: try 1/10,1,10.")
    labels = [start_label(start) for start in starts]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--starts {','.join(labels)} names one twice: leave it out.")
    if seeds < 1:
        raise ValueError(f"--seeds {seeds} must be at least 1: try 3.")
    return Settings(
        problems=[p for name, p in PROBLEMS.items() if not problems or name in problems],
        methods=[name for name in LABELS if not methods or name in methods],
        starts=sorted(starts),
        seeds=seeds,
        sweep=list(SWEEP),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
