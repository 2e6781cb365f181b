"""What a federated run is, and the names that the command line knows.

Strategies and selectors are given by name; everything else is a number. The same settings
give the same run, within one process or on Flower.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hdet.errors import require
from hdet.federated import Decay, FedExP, GlobalRate, ServerLocalRate
from hdet.federated.selection import (
    HeteroSelect,
    HeteroSelectV2,
    Oort,
    PowerOfChoice,
    Random,
    Selector,
)
from hdet.federated.server_optimizers import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    ServerOptimizer,
)

from .data import TASKS


@dataclass(frozen=True)
class Settings:
    """One federated run.

    Attributes:
        task: one of `benchmarks.federated.runs.data.TASKS`.
        strategy: one of `STRATEGIES`.
        selector: one of `SELECTORS`.
        rounds: how many.
        clients: how many there are.
        count: clients asked to train in a round.
        concentration: of the Dirichlet split; small is uneven.
        local_rate: beta^0, the clients' learning rate.
        global_rate: alpha^0, the server's learning rate; for the adaptive server optimizers
            a factor on theirs.
        steps: local optimizer steps of a round.
        batch: examples of a step.
        hidden: width of the network's hidden layer.
        momentum: of local SGD.
        proximal_mu: FedProx's mu.
        max_norm: local gradients are scaled to at most this norm; None is no limit.
        probe: examples of a client that a probe reads at most; None is all.
        pool: images are replaced by the means of pool x pool pixels.
        final_share: local_rate falls exponentially to this share of itself; 1 is constant.
        seed: of the split, the weights, the batches and the selection.
        dtype: "float32" or "float64".
        data: folder or file of the task's data, where not found by themselves.
    """

    task: str = "digits"
    strategy: str = "fedhyper"
    selector: str = "random"
    rounds: int = 50
    clients: int = 100
    count: int = 10
    concentration: float = 0.5
    local_rate: float = 0.01
    global_rate: float = 1.0
    steps: int = 20
    batch: int = 32
    hidden: int = 32
    momentum: float = 0.0
    proximal_mu: float = 0.0
    max_norm: float | None = None
    probe: int | None = 256
    pool: int = 1
    final_share: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    data: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("task", TASKS),
            ("strategy", STRATEGIES),
            ("selector", SELECTORS),
            ("dtype", ("float32", "float64")),
        ):
            value, words = getattr(self, name), f"write one of {', '.join(known)}"
            require(value in known, "Settings", name, value, "is not known", words)
        for name in ("rounds", "clients", "count", "steps", "batch", "hidden", "pool"):
            value = getattr(self, name)
            require(value >= 1, "Settings", name, value, "must be at least 1", "raise it")
        for name in ("concentration", "local_rate", "global_rate"):
            value = getattr(self, name)
            good, rule = 0 < value < math.inf, "must be above 0 and finite"
            require(good, "Settings", name, value, rule, "try 0.1")
        for name in ("max_norm", "probe"):
            value = getattr(self, name)
            good, rule = value is None or 0 < value < math.inf, "must be above 0"
            require(good, "Settings", name, value, rule, "None is no limit")
        share, good = self.final_share, 0 < self.final_share <= 1
        rule = "must lie in (0, 1]"
        require(good, "Settings", "final_share", share, rule, "1 keeps the rate")
        mu, fine = self.proximal_mu, 0 <= self.proximal_mu < math.inf
        rule = "must be finite and at least 0"
        require(fine, "Settings", "proximal_mu", mu, rule, "0 trains without the term")
        momentum, fine = self.momentum, 0 <= self.momentum < 1
        require(fine, "Settings", "momentum", momentum, "must lie in [0, 1)", "0.9 is usual")
        require(
            self.count <= self.clients,
            "Settings",
            "count",
            self.count,
            f"must be at most clients={self.clients}",
            "ask fewer clients in a round",
        )


@dataclass(frozen=True)
class Rule:
    """What a strategy is made of.

    Attributes:
        server: what is made of the mean update.
        global_rate: alpha of `hdet.federated.rounds.Rounds`.
        local_rate: beta, likewise.
        client_rate: FedHyper-CL's arguments; None where it moves no rate.
        delta_sgd: Delta-SGD's arguments, likewise.
    """

    server: ServerOptimizer
    global_rate: float | Decay | FedExP | GlobalRate
    local_rate: float | Decay | ServerLocalRate
    client_rate: Mapping[str, Any] | None = None
    delta_sgd: Mapping[str, Any] | None = None


def _fixed(server: Callable[[float], ServerOptimizer]) -> Callable[[Settings], Rule]:
    """A server optimizer whose rate takes alpha^0 as a factor."""
    return lambda s: Rule(server(s.global_rate), 1.0, s.local_rate)


def _plain(s: Settings) -> Rule:
    return Rule(FedAvg(), s.global_rate, s.local_rate)


def _hyper(rules: str) -> Callable[[Settings], Rule]:
    """FedHyper's rules by their initials: g, s and c, with this library's defaults."""

    def rule(s: Settings) -> Rule:
        # Both answer the same product: where the global rate falls, the local one need not.
        fall = 0.0 if "g" in rules else 1.0
        return Rule(
            FedAvg(),
            GlobalRate(s.global_rate) if "g" in rules else s.global_rate,
            ServerLocalRate(s.local_rate, fall=fall) if "s" in rules else s.local_rate,
            {} if "c" in rules else None,
        )

    return rule


def _paper(rules: str) -> Callable[[Settings], Rule]:
    """FedHyper's rules as the equations are printed; SL's step as in the authors' code."""
    return lambda s: Rule(
        FedAvg(),
        GlobalRate(s.global_rate, step="absolute") if "g" in rules else s.global_rate,
        ServerLocalRate(s.local_rate, step="relative") if "s" in rules else s.local_rate,
        {"growth": math.inf} if "c" in rules else None,
    )


# What the authors of Delta-SGD start every client from, whatever the task.
DELTA_SGD_RATE = 0.2


def _delta_sgd(rate: float | None = None) -> Callable[[Settings], Rule]:
    """Delta-SGD from a given eta_0; from the clients' beta^0 if it is None."""
    return lambda s: Rule(
        FedAvg(), s.global_rate, s.local_rate if rate is None else rate, delta_sgd={}
    )


STRATEGIES: dict[str, Callable[[Settings], Rule]] = {
    "fedavg": _plain,
    "fedprox": _plain,
    "fedavgm": _fixed(lambda rate: FedAvgM(rate)),
    "fedadam": _fixed(lambda rate: FedAdam(0.1 * rate)),
    "fedadagrad": _fixed(lambda rate: FedAdagrad(0.1 * rate)),
    "fedyogi": _fixed(lambda rate: FedYogi(0.01 * rate)),
    "fedexp": lambda s: Rule(FedAvg(), FedExP(), s.local_rate),
    "decay-g": lambda s: Rule(FedAvg(), Decay(s.global_rate), s.local_rate),
    "decay-sl": lambda s: Rule(FedAvg(), s.global_rate, Decay(s.local_rate)),
    "delta-sgd": _delta_sgd(),
    "delta-sgd-paper": _delta_sgd(DELTA_SGD_RATE),
    "fedhyper": _hyper("gsc"),
    "fedhyper-g": _hyper("g"),
    "fedhyper-sl": _hyper("s"),
    "fedhyper-cl": _hyper("c"),
    "fedhyper-g+cl": _hyper("gc"),
    "fedhyper-g-paper": _paper("g"),
    "fedhyper-sl-paper": _paper("s"),
    "fedhyper-cl-paper": _paper("c"),
    "fedhyper-g+cl-paper": _paper("gc"),
}

SELECTORS: dict[str, Callable[[Settings], Selector]] = {
    "random": lambda s: Random(seed=s.seed),
    "power-of-choice": lambda s: PowerOfChoice(
        candidates=min(3 * s.count, s.clients), seed=s.seed
    ),
    "oort": lambda s: Oort(seed=s.seed),
    "oort-without-system": lambda s: Oort(alpha=0.0, seed=s.seed),
    "hetero-select": lambda s: HeteroSelect(rounds=s.rounds, seed=s.seed),
    "hetero-select-reconstruction": lambda s: HeteroSelect.reconstruction(s.rounds, s.seed),
    "hetero-select-v2": lambda s: HeteroSelectV2(rounds=s.rounds, seed=s.seed),
}
