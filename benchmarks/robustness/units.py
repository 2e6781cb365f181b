"""The run folder of `python -m benchmarks robustness`, and which runs belong in it.

    <folder>/config.json, environment.json
    <folder>/runs/<problem>/ddp/sweep<k>/seed<s>.json       rate = centre x 10^(k/2)
    <folder>/runs/<problem>/<method>/start<f>/seed<s>.json  rate = best x f
    <folder>/runs/<problem>/<method>/startany/seed<s>.json  a method without initial rate
    <folder>/summary.json, plots/*.png, report.html

What is to be run is a function of what is there: the sweep of plain DDP first, half a
decade more while its best rate lies at the edge, and the starts once the best rate is
known. So a run that was stopped goes on by doing what has no result.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from hdet.errors import require

from ..compare.records import mean_and_error
from ..core.files import damaged, read_json, write_json
from ..core.folders import CommandFolder
from ..core.parsing import nan_for_null, parsed, require_name, require_names
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

    def __post_init__(self) -> None:
        names = [problem.name for problem in self.problems]
        require_names("Settings", "problems", names, names)
        for problem in self.problems:
            require_name("Problem", "name", problem.name)
            steps, centre = problem.steps, problem.centre
            require(steps >= 1, "Problem", "steps", steps, "must be at least 1", "raise it")
            good, rule = 0 < centre < math.inf, "must be finite and above 0"
            require(good, "Problem", "centre", centre, rule, "correct it")
        require_names("Settings", "methods", self.methods, LABELS)
        labels = [start_label(start) for start in self.starts if 0 < start < math.inf]
        good, rule = 0 < len(set(labels)) == len(self.starts), "must be above 0, each once"
        require(good, "Settings", "starts", self.starts, rule, "try 1/10,1,10")
        seeds, sweep = self.seeds, self.sweep
        require(seeds >= 1, "Settings", "seeds", seeds, "must be at least 1", "try 3")
        good, rule = 0 < len(sweep) == len(set(sweep)), "must name some, each once"
        require(good, "Settings", "sweep", sweep, rule, "correct it")


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


@dataclass(frozen=True)
class _Run:
    """What the file of a run has: its `Outcome` and where it began; null is not finite."""

    held_out: float | None
    lr: float
    start: float | None
    steps: list[int]
    lrs: list[float | None]
    seconds: float


class Folder(CommandFolder[Settings]):
    """One run of the benchmark on disk."""

    plan_type, command, packages = Settings, "python -m benchmarks robustness", PEER_PACKAGES

    def settings(self) -> Settings:
        """Read back what was asked for.

        Raises:
            FolderError: if this is not a folder of this benchmark.
        """
        return self.plan()

    def check(self) -> None:
        """Read what is there; see `CommandFolder.check`."""
        super().check()
        for file in sorted(self.path.glob("runs/*/*/*/seed*.json")):
            _read(file)

    def file(self, problem: str, method: str, place: str, seed: int) -> Path:
        """Return where the result of a run is, or will be."""
        return self.path / "runs" / problem / method / place / f"seed{seed}.json"

    def write(self, unit: Unit, outcome: Outcome) -> None:
        """Write how a run went; null stands for what is not finite."""
        held_out, steps, lrs, seconds = vars(outcome).values()
        run = _Run(held_out, unit.lr, unit.start, steps, lrs, seconds)
        file = self.file(unit.problem.name, unit.method, unit.place, unit.seed)
        write_json(file, asdict(run))

    def outcome(self, problem: str, method: str, place: str, seed: int) -> Outcome | None:
        """Return how a run went; None if it has not. What was not finite is NaN."""
        file = self.file(problem, method, place, seed)
        if not file.exists():
            return None
        run = _read(file)
        lrs, held_out = nan_for_null(run.lrs), nan_for_null(run.held_out)
        return Outcome(held_out, run.steps, lrs, run.seconds)

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


def _read(file: Path) -> _Run:
    remedy = "remove it, and --resume does that run again"
    content = read_json(file, remedy)
    try:
        return parsed(_Run, content)
    except ValueError as error:
        raise damaged(file, error, remedy) from error
