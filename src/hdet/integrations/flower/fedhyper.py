"""FedHyper on Flower: rates that follow the hypergradient, around any strategy.

Source: Wang, Wang, Li, "FedHyper: A Universal and Robust Learning Rate Scheduler for Federated
Learning with Hypergradient Descent", ICLR 2024, arXiv:2310.03156; equations in
`hdet.federated.hypergradient`. The rates come from the replies themselves: if the wrapped
strategy adds noise for differential privacy, that noise does not cover them.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ...errors import require, require_number
from ...federated import ClientLocalRate, GlobalRate, Hypergradient, ServerLocalRate
from ...state import Entries
from . import advice
from .records import (
    BETA_MAX,
    GAMMA,
    GROWTH,
    PREVIOUS_UPDATE,
    Trainable,
    first_of,
    log,
    only_config,
    rate_names,
    unflatten,
)
from .scaled_step import MeanUpdate, ScaledStep

# The clients' rate if neither `FedHyper` nor the train config has one.
_BETA = 0.01


class FedHyper(ScaledStep):
    """FedHyper around any Flower strategy: rates that follow the hypergradient.

    G moves the server's rate alpha in the same round, SL moves the next round's local rate
    beta, CL has every client move its own rate at every local step.

        strategy = FedAvg()           ->    strategy = FedHyper(FedAvg())

    The local rate reaches clients as `config["lr"]`, which Flower's own apps read; CL needs
    `local_training` there, and from round two on sends clients the last mean update, as much
    again as the model. What the clients lack for it is logged once, after the first round. The
    rates come from the replies themselves: noise that the wrapped strategy adds for
    differential privacy does not cover them. Each reply is checked, and an unusable one is left
    out of its round, with the reason in the log. The metrics of each round have
    "fedhyper-alpha", "fedhyper-beta" and "fedhyper-hypergradient".

    Args:
        strategy: aggregates the replies; wrapped or not.
        mode: one or more of "g", "sl" and "cl", joined by "+". All three, the default, work
            from the widest range of rates; the paper calls "g+cl" FedHyper.
        alpha: the server's rate in round one; without "g", in every round.
        beta: the clients' rate in round one, above 0; without "sl", in every message. None
            takes the rate in `start(train_config=...)`, or 0.01 if there is none.
        gamma_alpha: alpha stays in [1/gamma_alpha, gamma_alpha]. 1.0 holds it.
        gamma_beta: local rates stay in [beta/gamma_beta, gamma_beta beta]. 1.0 holds them.
        g_step: what the hypergradient adds to alpha; see `GlobalRate`. "cosine", the default,
            does not depend on the norms of updates; "absolute" is the equation as printed.
        sl_step: what it adds to beta; see `ServerLocalRate`. Beside "g", which follows the same
            product, beta does not fall.
        growth: the largest factor by which one local step may raise or lower a rate; see
            `ClientLocalRate`.
        beta_max: absolute upper bound of local rates; None is no bound.
        trainable: entries of the model that clients train: names, or a predicate of the name.
            None takes all floating-point entries with finite numbers, without running
            statistics. Only these count and are scaled; the others are taken as aggregated.
        rate_key: the config's entry from which the clients' app reads its rate, if it is not
            "lr", "learning-rate" or "learning_rate"; "lr" is sent in any case.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        mode: str = "g+sl+cl",
        alpha: float = 1.0,
        beta: float | None = None,
        gamma_alpha: float = 3.0,
        gamma_beta: float = 10.0,
        g_step: str = "cosine",
        sl_step: str = "cosine",
        growth: float = 1.5,
        beta_max: float | None = None,
        trainable: Trainable = None,
        rate_key: str | None = None,
    ) -> None:
        super().__init__(strategy, trainable)
        rules = mode.split("+")
        fits = set(rules) <= {"g", "sl", "cl"} and len(set(rules)) == len(rules)
        rule = 'must be one or more of "g", "sl" and "cl", joined by "+"'
        require(fits, "FedHyper", "mode", mode, rule, 'the paper calls "g+cl" FedHyper')
        remedy = "1.0 is the wrapped strategy"
        require_number("FedHyper", "alpha", alpha, remedy, above=0)
        self._mode, self._rules, self._alpha = mode, rules, float(alpha)
        self._global = GlobalRate(alpha, gamma_alpha, step=g_step) if "g" in rules else None
        self._gamma_beta, self._sl_step = gamma_beta, sl_step
        self._growth, self._beta_max = growth, beta_max
        self._rate_key, self._beta_is_settled = rate_key, beta is not None
        self._local, self._beta = self._local_from(_BETA if beta is None else beta)
        # One for all rules: G and SL follow it, and CL's clients are sent its last update.
        self._hypergradient = Hypergradient("FedHyper.aggregate_train", "replies")
        self._update_record: ArrayRecord | None = None

    @property
    def alpha(self) -> float:
        """The server's rate in the last round."""
        return self._alpha if self._global is None else self._global.alpha

    @property
    def beta(self) -> float:
        """The local rate of the next round's messages."""
        # SL's bound is its own; no client accepts a rate above beta_max.
        high = math.inf if self._beta_max is None else self._beta_max
        return self._beta if self._local is None else min(self._local.beta, high)

    def _local_from(self, beta: float) -> tuple[ServerLocalRate | None, float]:
        """Return SL's rule, if it is in the mode, and the local rate that clients start at."""
        # Constructed here, so that a bad argument is an error before any message.
        ClientLocalRate(beta, 1, self._gamma_beta, growth=self._growth, beta_max=self._beta_max)
        fall = 0.0 if "g" in self._rules else 1.0
        local = ServerLocalRate(beta, self._gamma_beta, step=self._sl_step, fall=fall)
        return local if "sl" in self._rules else None, float(beta)

    def _settings(self) -> str:
        return f"mode {self._mode}, alpha {self.alpha:g}, beta {self.beta:g}"

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        names = rate_names(config, self._rate_key)
        name = first_of(config, names)
        if name is not None and not self._beta_is_settled:
            self._local, self._beta = self._local_from(cast(float, config[name]))
            log.info("FedHyper: the local rate begins at train_config's %s=%g",
                     name, self._beta)  # fmt: skip
        self._beta_is_settled = True
        for name in names:
            given = config.get(name, self._beta)
            rule = f"differs from train_config's {name}={given}"
            remedy = f"FedHyper sends the local rate, so write beta={given} or leave {name} out"
            require(given == self._beta, "FedHyper", "beta", self._beta, rule, remedy)
        config.update(dict.fromkeys(names, self.beta))
        messages = super()._configure(round_, arrays, config, grid)
        update = self._hypergradient.previous
        if "cl" in self._rules and update is not None:
            self._update_record = unflatten(update, arrays, self._names)
        return messages

    def _address(self, message: Message) -> None:
        if "cl" not in self._rules:
            return
        bounds = {GAMMA: float(self._gamma_beta), GROWTH: float(self._growth)}
        if self._beta_max is not None:
            bounds[BETA_MAX] = float(self._beta_max)
        only_config(message).update(bounds)
        if self._update_record is not None:
            message.content[PREVIOUS_UPDATE] = self._update_record

    def _rate(self, mean: MeanUpdate) -> tuple[float, dict[str, Any]]:
        metrics: dict[str, Any] = {"fedhyper-beta": self.beta}
        self._hypergradient.update(mean.delta)
        for rule in (self._global, self._local):
            if rule is not None:
                rule.follow(self._hypergradient)
                metrics["fedhyper-hypergradient"] = self._hypergradient.value
        return self.alpha, {**metrics, "fedhyper-alpha": self.alpha}

    def _advice(self, metrics: set[str]) -> Sequence[str]:
        if metrics & {"update-norm", "local-rate"}:
            return []
        name = self._rate_key or "lr"
        doubts = [f"whether they train at the rate that they are sent as config[{name!r}]"]
        if "cl" in self._rules:
            doubts.append("whether they move it at every step, as mode 'cl' requires")
        return [
            f"the clients report neither 'update-norm' nor 'local-rate', so it is not known "
            f"{' and '.join(doubts)}. {advice.TRAIN}"
        ]

    def _own_state(self) -> dict[str, Any]:
        return {
            "beta": self._beta if self._beta_is_settled else None,
            "global": None if self._global is None else {"rate": self._global.alpha},
            "local": None if self._local is None else {"rate": self._local.beta},
            **self._hypergradient.state_dict(),
        }

    def _parse_own(self, entries: Entries) -> Callable[[], None]:
        # A state without this entry is of a time when no rate was taken from the config.
        settled = not entries.has("beta") or entries.raw("beta") is not None
        beta = self._beta
        if not self._beta_is_settled and settled and entries.has("beta"):
            beta = entries.number("beta", above=0.0)
        local, beta = self._local_from(beta)
        rules = {"global": copy.copy(self._global), "local": local}
        remedy = "construct with the arguments of that run"
        for name, rule in rules.items():
            same = (rule is None) == (entries.raw(name) is None)
            text = "is not the mode of the run that wrote the state"
            require(same, "FedHyper.load_state_dict", "mode", self._mode, text, remedy)
            if rule is not None:
                rule.load_rate(entries.entries(name))
        hypergradient = self._hypergradient.read(_hypergradient_in(entries))

        def assign() -> None:
            self._beta, self._beta_is_settled = beta, self._beta_is_settled or settled
            self._global, self._local = rules["global"], rules["local"]
            self._hypergradient, self._update_record = hypergradient, None

        return assign


def _hypergradient_in(entries: Entries) -> Entries:
    """Return where a state has its hypergradient; once each rule saved one of its own."""
    if entries.has("previous"):
        return entries
    for name in ("global", "local"):
        if entries.raw(name) is not None:
            return entries.entries(name)
    return Entries({"hypergradient": 0.0, "previous": entries.raw("update")}, "FedHyper")
