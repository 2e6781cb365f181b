"""Which federated runs the benchmark makes, and what one of them gives.

    rates       every strategy from every cell of a grid of starts, beta^0 x alpha^0, the
                paper's own (Figure 4); Dirichlet 0.5
    selection   every selector, mu = 0.1; Dirichlet 0.1
    mu          four selectors at other strengths of FedProx's term

28 x 28 images are averaged to 14 x 14: a run is four times shorter, and twenty seeds tell
more than sharper pictures. A run is a function of its unit alone; see `core.units`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from statistics import fmean, stdev
from time import perf_counter
from typing import Any, ClassVar

from hdet.errors import require

from ..core.parsing import require_names
from ..core.units import UnitFolder
from .federation import Federation, RoundRecord, split_of
from .methods import PROX, RANDOM, SELECTORS, STRATEGIES, Settings
from .tasks import Split

LOCAL_RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
GLOBAL_RATES = (0.5, 0.75, 1.0, 1.5, 2.0)
MU_SELECTORS = (RANDOM, "power-of-choice", "oort-without-system", "hetero-select")
# FedProx's mu where selectors are compared, and the other strengths of it.
MU, OTHER_MUS = 0.1, (0.0, 0.01, 0.5)
EXPERIMENTS = ("rates", "selection", "mu")
TASKS = {"rates": ("digits", "fashion"), "selection": ("mnist", "fashion"), "mu": ("mnist",)}
COMMAND = "python -m benchmarks federated"
# Rounds whose mean judges a run, and those whose deviation is called late.
LAST, LATE = 10, 20
# What guessing gives in ten classes, in percent.
_GUESSING = 10.0
# What a run's line has.
_NUMBERS = ("final", "peak", "drop", "last", "late_deviation", "worst_class", "fairness")
_VALUES: dict[str, Any] = dict.fromkeys((*_NUMBERS, "seconds"), float)
_VALUES |= dict.fromkeys(("alpha", "beta"), float | None)
_VALUES |= dict.fromkeys(("bytes_down", "bytes_up", "probed"), int)
_VALUES |= {"accuracies": list[float], "diverged": bool}


@dataclass(frozen=True)
class Plan:
    """What was asked for; the content of `config.json`.

    Seeds are those from 0; what was tuned, was tuned on seeds from 100 (rates) and from 1000
    (selection).

    Attributes:
        experiments: names, from `EXPERIMENTS`.
        rate_seeds: seeds of the grid of starts.
        selection_seeds: seeds of the other two.
        rounds: of every run of the grid; selection has twice as many.
    """

    experiments: list[str]
    rate_seeds: int = 3
    selection_seeds: int = 20
    rounds: int = 50

    def __post_init__(self) -> None:
        require_names("Plan", "experiments", self.experiments, EXPERIMENTS)
        for name, least in (("rate_seeds", 1), ("selection_seeds", 1), ("rounds", 2)):
            value, rule = getattr(self, name), f"must be at least {least}"
            require(value >= least, "Plan", name, value, rule, "raise it")


@dataclass(frozen=True)
class Unit:
    """One run.

    Attributes:
        experiment: one of `EXPERIMENTS`.
        settings: the run.
    """

    experiment: str
    settings: Settings

    @property
    def key(self) -> str:
        """What tells the unit from all others."""
        s = self.settings
        numbers = f"{s.local_rate:g}/{s.global_rate:g}/{s.proximal_mu:g}/{s.seed}"
        return f"{self.experiment}/{s.task}/{s.strategy}/{s.selector}/{numbers}"

    def __str__(self) -> str:
        return self.key


class Folder(UnitFolder[Plan]):
    """One run of the benchmark on disk."""

    plan_type, command = Plan, COMMAND
    values: ClassVar = dict.fromkeys(EXPERIMENTS, _VALUES)


def units(plan: Plan) -> list[Unit]:
    """Return all runs of a plan."""
    makers = {"rates": _rates, "selection": _selection, "mu": _mu}
    return [unit for name in plan.experiments for unit in makers[name](plan)]


def unfinished(folder: Folder) -> Sequence[Unit]:
    """Return the runs without a result."""
    done = folder.results()
    return [unit for unit in units(folder.plan()) if unit.key not in done]


def _rates(plan: Plan) -> Iterator[Unit]:
    for task in TASKS["rates"]:
        for seed in range(plan.rate_seeds):
            for strategy in STRATEGIES:
                for beta, alpha in product(LOCAL_RATES, GLOBAL_RATES):
                    settings = Settings(
                        task=task,
                        strategy=strategy,
                        rounds=plan.rounds,
                        local_rate=beta,
                        global_rate=alpha,
                        pool=_pool(task),
                        seed=seed,
                    )
                    yield Unit("rates", settings)


def _selection(plan: Plan) -> Iterator[Unit]:
    for task in TASKS["selection"]:
        for seed in range(plan.selection_seeds):
            for selector in SELECTORS:
                yield Unit("selection", _selected(plan, task, selector, MU, seed))


def _mu(plan: Plan) -> Iterator[Unit]:
    for task in TASKS["mu"]:
        for seed in range(plan.selection_seeds):
            for mu in OTHER_MUS:
                for selector in MU_SELECTORS:
                    yield Unit("mu", _selected(plan, task, selector, mu, seed))


def _selected(plan: Plan, task: str, selector: str, mu: float, seed: int) -> Settings:
    return Settings(
        task=task,
        strategy=PROX,
        selector=selector,
        rounds=2 * plan.rounds,
        concentration=0.1,
        local_rate=0.05,
        final_share=0.5,
        momentum=0.9,
        proximal_mu=mu,
        max_norm=2.0,
        pool=_pool(task),
        seed=seed,
    )


def _pool(task: str) -> int:
    return 1 if task == "digits" else 2


def outcome(unit: Unit) -> dict[str, Any]:
    """Do one run, and return its numbers.

    A run in which no client's update is finite any more, or the global model's loss is not, is
    over: it "diverged", and is judged as one that guesses from there on.
    """
    start = perf_counter()
    federation = Federation(unit.settings, _split(_data_of(unit.settings)))
    records: list[RoundRecord] = []
    diverged = False
    for record in federation.run():
        records.append(record)
        diverged = not record.replied or not math.isfinite(record.loss)
        if diverged:
            break
    numbers = _numbers(records, unit.settings, diverged)
    return numbers | {"diverged": diverged, "seconds": round(perf_counter() - start, 2)}


def _numbers(records: list[RoundRecord], settings: Settings, diverged: bool) -> dict[str, Any]:
    sound = records[: len(records) - diverged]
    missing = settings.rounds - len(sound)
    accuracies = [record.accuracy for record in sound] + [_GUESSING] * missing
    # Who guesses one class for all never sees the others.
    worst_class = [record.worst_class for record in sound] + [0.0] * missing
    counts = [0] * settings.clients
    for record in records:
        for client in record.selected:
            counts[client] += 1
    return {
        "accuracies": [round(accuracy, 2) for accuracy in accuracies],
        "final": accuracies[-1],
        "peak": max(accuracies),
        "drop": max(accuracies) - accuracies[-1],
        "last": fmean(accuracies[-LAST:]),
        "late_deviation": stdev(accuracies[-LATE:]),
        "worst_class": fmean(worst_class[-LAST:]),
        "fairness": jain(counts),
        "bytes_down": sum(record.bytes_down for record in records),
        "bytes_up": sum(record.bytes_up for record in records),
        "probed": sum(record.probed for record in records),
        "alpha": records[-1].alpha,
        "beta": records[-1].beta,
    }


def jain(counts: Sequence[int]) -> float:
    """Return Jain's index of how often each client was asked: 1 if all were equally often.

    J = (sum x)^2 / (K sum x^2), 1/K if one of K was asked every time.

    Source: Jain, Chiu, Hawe, "A Quantitative Measure of Fairness and Discrimination for
    Resource Allocation in Shared Computer Systems", DEC TR-301, 1984.
    """
    squares = sum(count**2 for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 1.0


def _data_of(settings: Settings) -> Settings:
    """Return settings that are the same for all runs on one split."""
    kept = ("task", "clients", "concentration", "seed", "dtype", "pool")
    return replace(Settings(), **{name: getattr(settings, name) for name in kept})


@lru_cache(maxsize=2)
def _split(settings: Settings) -> Split:
    return split_of(settings)
