"""FedHyper on Flower: rates that follow the hypergradient, around any strategy.

Source: Wang, Wang, Li, "FedHyper: A Universal and Robust Learning Rate Scheduler for Federated
Learning with Hypergradient Descent", ICLR 2024, arXiv:2310.03156; equations in
`hdet.federated.rates`. The rates come from the replies themselves: the noise of a strategy
within that gives differential privacy does not cover them.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from ...errors import require
from ...federated import ClientLocalRate, GlobalRate, ServerLocalRate
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

# The clients' rate where neither `FedHyper` nor the train config says one.
_BETA = 0.01


class FedHyper(ScaledStep):
    """FedHyper around any Flower strategy: rates that follow the hypergradient.

    G moves the server's rate alpha in the round that it measures, SL moves the next round's
    local rate beta, CL has every client move its own rate at every local step.

        strategy = FedAvg()           ->    strategy = FedHyper(FedAvg())

    The local rate reaches clients as `config["lr"]`, which Flower's own apps read; CL needs
    `local_training` there, and from round two on doubles what is sent *to* clients, by the
    last mean update. What clients do not do is said once, after the first round. The metrics
    of each round hold "fedhyper-alpha", "fedhyper-beta" and "fedhyper-hypergradient".

    Args:
        strategy: what aggregates; wrapped or not.
        mode: one or more of "g", "sl" and "cl", joined by "+". All three, the default, end
            well from the widest range of rates; "g+cl" is what the paper calls FedHyper.
        alpha: the server's rate in round one; without "g", in every round.
        beta: the clients' rate in round one, above 0; without "sl", in every message. None
            takes the rate of `start(train_config=...)`, or 0.01 if there is none in it.
        gamma_alpha: alpha stays in [1/gamma_alpha, gamma_alpha]. 1.0 holds it.
        gamma_beta: local rates stay in [beta/gamma_beta, gamma_beta beta]. 1.0 holds them.
        g_step: what the hypergradient adds to alpha; see `GlobalRate`. "cosine", the default,
            does not depend on how large updates are; "absolute" is the equation as printed.
        sl_step: what it adds to beta; see `ServerLocalRate`. Beside "g", which answers the same
            product, beta does not fall.
        growth: the most that one local step may multiply or divide a rate by; see
            `ClientLocalRate`.
        beta_max: absolute upper bound of local rates; None is none.
        trainable: entries of the model that clients train: names, or a predicate of the name.
            None takes all floating-point entries with finite numbers but running statistics.
            Only these count and are scaled; the others are taken as aggregated.
        rate_key: the config's entry that the clients' app reads its rate from, if it is none
            of "lr", "learning-rate" and "learning_rate"; "lr" is sent in any case.

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
        parts = mode.split("+")
        require(
            set(parts) <= {"g", "sl", "cl"} and len(set(parts)) == len(parts),
            "FedHyper",
            "mode",
            mode,
            'must be one or more of "g", "sl" and "cl", joined by "+"',
            '"g+cl" is what the paper calls FedHyper',
        )
        require(
            0 < alpha < math.inf,
            "FedHyper",
            "alpha",
            alpha,
            "must be finite and above 0",
            "1.0 is the strategy within",
        )
        self._mode, self._alpha, self._with_client = mode, float(alpha), "cl" in parts
        self._global = GlobalRate(alpha, gamma_alpha, step=g_step) if "g" in parts else None
        self._sl_step, self._fall = sl_step, 0.0 if "g" in parts else 1.0
        self._gamma_beta, self._growth, self._beta_max = gamma_beta, growth, beta_max
        self._rate_key, self._beta_is_settled = rate_key, beta is not None
        self._start_at(_BETA if beta is None else beta)
        self._update: Tensor | None = None
        self._record: ArrayRecord | None = None

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

    def _start_at(self, beta: float) -> None:
        """Take the local rate that the clients begin at."""
        # Made here once, so that a bad argument is an error before any client hears of it.
        ClientLocalRate(beta, 1, self._gamma_beta, growth=self._growth, beta_max=self._beta_max)
        local = ServerLocalRate(beta, self._gamma_beta, step=self._sl_step, fall=self._fall)
        self._local = local if "sl" in self._mode.split("+") else None
        self._beta = float(beta)

    def _settings(self) -> str:
        return f"mode {self._mode}, alpha {self.alpha:g}, beta {self.beta:g}"

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        names = rate_names(config, self._rate_key)
        name = first_of(config, names)
        if name is not None and not self._beta_is_settled:
            self._start_at(cast(float, config[name]))
            log.info("FedHyper: the local rate begins at train_config's %s=%g",
                     name, self._beta)  # fmt: skip
        self._beta_is_settled = True
        for name in names:
            given = config.get(name, self._beta)
            require(
                given == self._beta,
                "FedHyper",
                "beta",
                self._beta,
                f"differs from train_config's {name}={given}",
                f"FedHyper sends the local rate, so write beta={given} or leave {name} out",
            )
        config.update(dict.fromkeys(names, self.beta))
        messages = super()._configure(round_, arrays, config, grid)
        if self._with_client and self._update is not None:
            self._record = unflatten(self._update, arrays, self._names)
        return messages

    def _address(self, message: Message) -> None:
        if not self._with_client:
            return
        bounds = {GAMMA: float(self._gamma_beta), GROWTH: float(self._growth)}
        if self._beta_max is not None:
            bounds[BETA_MAX] = float(self._beta_max)
        only_config(message).update(bounds)
        if self._record is not None:
            message.content[PREVIOUS_UPDATE] = self._record

    def _rate(self, mean: MeanUpdate) -> tuple[float, dict[str, Any]]:
        metrics: dict[str, Any] = {"fedhyper-beta": self.beta}
        for rule in (self._global, self._local):
            if rule is not None:
                rule.update(mean.delta)
                metrics["fedhyper-hypergradient"] = rule.hypergradient
        if self._with_client:
            self._update = mean.delta
        return self.alpha, {**metrics, "fedhyper-alpha": self.alpha}

    def _advice(self, told: set[str]) -> Sequence[str]:
        if told & {"update-norm", "local-rate"}:
            return []
        name = self._rate_key or "lr"
        doubts = [f"whether they train at the rate that they are sent as config[{name!r}]"]
        if self._with_client:
            doubts.append("whether they move it at every step, as mode 'cl' has it")
        return [
            f"the clients report neither 'update-norm' nor 'local-rate', so it is not known "
            f"{' and '.join(doubts)}. {advice.TRAIN}"
        ]

    def _own_state(self) -> dict[str, Any]:
        return {
            "beta": self._beta if self._beta_is_settled else None,
            "global": None if self._global is None else self._global.state_dict(),
            "local": None if self._local is None else self._local.state_dict(),
            "update": None if self._update is None else self._update.clone(),
        }

    def _parse_own(self, entries: Entries) -> Callable[[], None]:
        # A state without this entry is of a time when no rate was taken from the config.
        settled = not entries.has("beta") or entries.raw("beta") is not None
        beta = self._beta
        if not self._beta_is_settled and settled and entries.has("beta"):
            beta = entries.number("beta", above=0.0)
        fresh = copy.copy(self)
        fresh._start_at(beta)
        rules = {"global": copy.deepcopy(self._global), "local": fresh._local}
        require(
            all((rule is None) == (entries.raw(name) is None) for name, rule in rules.items()),
            "FedHyper.load_state_dict",
            "mode",
            self._mode,
            "is not the mode of the run that wrote the state",
            "construct with the arguments of that run",
        )
        for name, rule in rules.items():
            if rule is not None:
                rule.load_state_dict(entries.entries(name).whole())
        update = entries.optional("update", entries.tensor, shape=(None,))
        vectors = [update, *(r.previous_update for r in rules.values() if r is not None)]
        if len({len(vector) for vector in vectors if vector is not None}) > 1:
            entries.refuse("update", update, "must be as long as the `previous` of the rules")

        def assign() -> None:
            self._beta, self._beta_is_settled = beta, self._beta_is_settled or settled
            self._global, self._local = rules["global"], fresh._local
            self._update = None if update is None else update.clone()
            self._record = None

        return assign
