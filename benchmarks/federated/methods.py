"""What a federated run is: its settings, and the strategies and selectors by name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hdet.federated import Decay, FedExP, GlobalRate, ServerLocalRate
from hdet.federated.selection import (
    HeteroSelect,
    HeteroSelectV2,
    Oort,
    PowerOfChoice,
    Random,
    Selector,
)
from hdet.federated.server_optimizers import FedAdam, FedAvg, ServerOptimizer


@dataclass(frozen=True)
class Settings:
    """One federated run; the same settings give the same run.

    Attributes:
        task: `digits`, `mnist` or `fashion`.
        strategy: one of `STRATEGIES`, or `PROX`.
        selector: one of `SELECTORS`.
        rounds: how many.
        clients: how many there are.
        count: clients asked to train in a round.
        concentration: of the Dirichlet split; small is uneven.
        local_rate: beta^0, the clients' learning rate.
        global_rate: alpha^0, the server's learning rate; for FedAdam a factor on its own.
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


def _plain(s: Settings) -> Rule:
    return Rule(FedAvg(), s.global_rate, s.local_rate)


def _hyper(rules: str) -> Callable[[Settings], Rule]:
    """FedHyper's rules by their initials, g, s and c, with this library's defaults."""

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


def _printed(s: Settings, global_rate: float | GlobalRate) -> Rule:
    """FedHyper-CL as its equation is printed, without a cap on one step's change."""
    return Rule(FedAvg(), global_rate, s.local_rate, {"growth": math.inf})


def _delta_sgd(s: Settings, rate: float) -> Rule:
    return Rule(FedAvg(), s.global_rate, rate, delta_sgd={})


PLAIN = "fedavg"
# Of the comparison over starts: what tables call them, and what they are made of.
STRATEGIES: dict[str, tuple[str, Callable[[Settings], Rule]]] = {
    PLAIN: ("FedAvg", _plain),
    "fedhyper": ("FedHyper (G + SL + CL)", _hyper("gsc")),
    "fedhyper-g+cl": ("FedHyper-G + CL", _hyper("gc")),
    "fedhyper-g": ("FedHyper-G", _hyper("g")),
    "fedhyper-sl": ("FedHyper-SL", _hyper("s")),
    "fedhyper-cl": ("FedHyper-CL", _hyper("c")),
    "fedhyper-g+cl-paper": (
        "G + CL as printed",
        lambda s: _printed(s, GlobalRate(s.global_rate, step="absolute")),
    ),
    "fedhyper-cl-paper": ("CL as printed", lambda s: _printed(s, s.global_rate)),
    "fedexp": ("FedExP", lambda s: Rule(FedAvg(), FedExP(), s.local_rate)),
    "fedadam": ("FedAdam", lambda s: Rule(FedAdam(0.1 * s.global_rate), 1.0, s.local_rate)),
    "decay-sl": (
        "Decay of the local rate",
        lambda s: Rule(FedAvg(), s.global_rate, Decay(s.local_rate)),
    ),
    "delta-sgd": ("Delta-SGD", lambda s: _delta_sgd(s, s.local_rate)),
    # Its authors start every client from 0.2, whatever the task.
    "delta-sgd-paper": ("Delta-SGD from 0.2", lambda s: _delta_sgd(s, 0.2)),
}
# FedProx is FedAvg with a term in the clients' loss.
PROX = "fedprox"

RANDOM = "random"
SELECTORS: dict[str, tuple[str, Callable[[Settings], Selector]]] = {
    RANDOM: ("Random", lambda s: Random(seed=s.seed)),
    "power-of-choice": (
        "Power-of-Choice",
        lambda s: PowerOfChoice(candidates=min(3 * s.count, s.clients), seed=s.seed),
    ),
    "oort": ("Oort", lambda s: Oort(seed=s.seed)),
    "oort-without-system": (
        "Oort without system terms",
        lambda s: Oort(alpha=0.0, seed=s.seed),
    ),
    "hetero-select": ("HeteRo-Select", lambda s: HeteroSelect(rounds=s.rounds, seed=s.seed)),
    "hetero-select-reconstruction": (
        "HeteRo-Select as reconstructed",
        lambda s: HeteroSelect.reconstruction(s.rounds, s.seed),
    ),
    "hetero-select-v2": (
        "HeteRo-Select v2",
        lambda s: HeteroSelectV2(rounds=s.rounds, seed=s.seed),
    ),
}


def rule_of(settings: Settings) -> Rule:
    """Return what a run's strategy is made of."""
    name = PLAIN if settings.strategy == PROX else settings.strategy
    return STRATEGIES[name][1](settings)


def selector_of(settings: Settings) -> Selector:
    """Return a run's selector."""
    return SELECTORS[settings.selector][1](settings)
