"""Which federated runs the benchmark makes, and where their results are kept.

    rates       every strategy from every cell of a grid of starts, beta^0 x alpha^0, the
                paper's own (Figure 4); Dirichlet 0.5
    selection   every selector, mu = 0.1; Dirichlet 0.1
    mu          four selectors at other strengths of FedProx's term

    <folder>/config.json, environment.json
    <folder>/results.jsonl      one line per run, appended when it is over
    <folder>/summary.json, plots/*.png, report.html

28 x 28 images are averaged to 14 x 14: a run is four times shorter, and twenty seeds tell
more than sharper pictures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hdet.errors import require

from ..core.parsing import require_names
from ..core.units import UnitFolder
from .runs.settings import Settings

LOCAL_RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
GLOBAL_RATES = (0.5, 0.75, 1.0, 1.5, 2.0)
PLAIN = "fedavg"
STRATEGIES = {
    PLAIN: "FedAvg",
    "fedhyper": "FedHyper (G + SL + CL)",
    "fedhyper-g+cl": "FedHyper-G + CL",
    "fedhyper-g": "FedHyper-G",
    "fedhyper-sl": "FedHyper-SL",
    "fedhyper-cl": "FedHyper-CL",
    "fedhyper-g+cl-paper": "G + CL as printed",
    "fedhyper-cl-paper": "CL as printed",
    "fedexp": "FedExP",
    "fedadam": "FedAdam",
    "decay-sl": "Decay of the local rate",
    "delta-sgd": "Delta-SGD",
    "delta-sgd-paper": "Delta-SGD from 0.2",
}
RANDOM = "random"
SELECTORS = {
    RANDOM: "Random",
    "power-of-choice": "Power-of-Choice",
    "oort": "Oort",
    "oort-without-system": "Oort without system terms",
    "hetero-select": "HeteRo-Select",
    "hetero-select-reconstruction": "HeteRo-Select as reconstructed",
    "hetero-select-v2": "HeteRo-Select v2",
}
MU_SELECTORS = (RANDOM, "power-of-choice", "oort-without-system", "hetero-select")
MUS = (0.0, 0.01, 0.5)
EXPERIMENTS = ("rates", "selection", "mu")
# What a run's line has.
_NUMBERS = ("final", "peak", "drop", "last", "late_deviation", "worst_class", "fairness")
_VALUES: dict[str, Any] = dict.fromkeys((*_NUMBERS, "seconds"), float)
_VALUES |= dict.fromkeys(("alpha", "beta"), float | None)
_VALUES |= dict.fromkeys(("bytes_down", "bytes_up", "probed"), int)
_VALUES |= {"accuracies": list[float], "diverged": bool}
TASKS = {
    "rates": ("digits", "fashion"),
    "selection": ("mnist", "fashion"),
    "mu": ("mnist",),
}
# Seeds 0 and up are for the record; what was tuned, was tuned on seeds from 100 (rates) and
# from 1000 (selection).
FIRST_SEED = 0


@dataclass(frozen=True)
class Plan:
    """What was asked for; the content of `config.json`.

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
        return "/".join(
            map(
                str,
                (
                    self.experiment,
                    s.task,
                    s.strategy,
                    s.selector,
                    f"{s.local_rate:g}",
                    f"{s.global_rate:g}",
                    f"{s.proximal_mu:g}",
                    s.seed,
                ),
            )
        )

    def __str__(self) -> str:
        return self.key


def units(plan: Plan) -> list[Unit]:
    """Return all runs of a plan."""
    makers = {"rates": _rates, "selection": _selection, "mu": _mu}
    return [unit for name in plan.experiments for unit in makers[name](plan)]


def _rates(plan: Plan) -> Iterator[Unit]:
    for task in TASKS["rates"]:
        for seed in range(FIRST_SEED, FIRST_SEED + plan.rate_seeds):
            for strategy in STRATEGIES:
                for beta in LOCAL_RATES:
                    for alpha in GLOBAL_RATES:
                        yield Unit(
                            "rates",
                            Settings(
                                task=task,
                                strategy=strategy,
                                rounds=plan.rounds,
                                local_rate=beta,
                                global_rate=alpha,
                                pool=_pool(task),
                                seed=seed,
                            ),
                        )


def _selection(plan: Plan) -> Iterator[Unit]:
    for task in TASKS["selection"]:
        for seed in range(FIRST_SEED, FIRST_SEED + plan.selection_seeds):
            for selector in SELECTORS:
                yield Unit("selection", selection_settings(plan, task, selector, 0.1, seed))


def _mu(plan: Plan) -> Iterator[Unit]:
    for task in TASKS["mu"]:
        for seed in range(FIRST_SEED, FIRST_SEED + plan.selection_seeds):
            for mu in MUS:
                for selector in MU_SELECTORS:
                    yield Unit("mu", selection_settings(plan, task, selector, mu, seed))


def selection_settings(plan: Plan, task: str, selector: str, mu: float, seed: int) -> Settings:
    """Return a run of the selection experiments.

    Args:
        plan: the plan.
        task: its data.
        selector: its selector.
        mu: strength of FedProx's term.
        seed: its seed.
    """
    return Settings(
        task=task,
        strategy="fedprox",
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


class Folder(UnitFolder[Plan]):
    """One run of the benchmark on disk."""

    plan_type, command = Plan, "python -m benchmarks federated"
    values: ClassVar = dict.fromkeys(EXPERIMENTS, _VALUES)


def unfinished(folder: Folder) -> Sequence[Unit]:
    """Return the runs without a result."""
    done = folder.results()
    return [unit for unit in units(folder.plan()) if unit.key not in done]
