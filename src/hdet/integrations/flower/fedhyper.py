"""FedHyper on Flower: rates that follow the hypergradient, around any strategy.

Source: Wang, Wang, Li, "FedHyper: A Universal and Robust Learning Rate Scheduler for Federated
Learning with Hypergradient Descent", ICLR 2024, arXiv:2310.03156; equations in
`hdet.federated.rates`. The rates come from the replies themselves: the noise of a strategy
within that gives differential privacy does not cover them.
"""

import math
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from ...errors import require
from ...federated import ClientLocalRate, GlobalRate, ServerLocalRate
from .records import (
    BETA_MAX,
    GAMMA,
    GROWTH,
    PREVIOUS_UPDATE,
    Trainable,
    only_config,
    unflatten,
)
from .scaled_step import MeanUpdate, ScaledStep


class FedHyper(ScaledStep):
    """FedHyper around any Flower strategy: rates that follow the hypergradient.

    G moves the server's rate alpha in the round that it measures, SL moves the next round's
    local rate beta, CL has every client move its own rate at every local step.

        strategy = FedAvg()           ->    strategy = FedHyper(FedAvg())

    The local rate reaches clients as `config["lr"]`; CL needs `local_training` there, and
    from round two on doubles what is sent *to* clients, by the last mean update. The metrics
    of each round hold "fedhyper-alpha", "fedhyper-beta" and "fedhyper-hypergradient".

    Args:
        strategy: what aggregates; wrapped or not.
        mode: one or more of "g", "sl" and "cl", joined by "+". All three, the default, end
            well from the widest range of rates; "g+cl" is what the paper calls FedHyper.
        alpha: the server's rate in round one; without "g", in every round.
        beta: the clients' rate in round one, above 0; without "sl", in every message.
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
            None takes all floating-point entries but running statistics. Only these count
            and are scaled; the others are taken as aggregated.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        mode: str = "g+sl+cl",
        alpha: float = 1.0,
        beta: float = 0.01,
        gamma_alpha: float = 3.0,
        gamma_beta: float = 10.0,
        g_step: str = "cosine",
        sl_step: str = "cosine",
        growth: float = 1.5,
        beta_max: float | None = None,
        trainable: Trainable = None,
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
        # Made here once, so that a bad argument is an error before any client hears of it.
        ClientLocalRate(beta, 1, gamma_beta, growth=growth, beta_max=beta_max)
        fall = 0.0 if "g" in parts else 1.0
        local = ServerLocalRate(beta, gamma_beta, step=sl_step, fall=fall)
        self._mode, self._alpha, self._beta = mode, float(alpha), float(beta)
        self._global = GlobalRate(alpha, gamma_alpha, step=g_step) if "g" in parts else None
        self._local = local if "sl" in parts else None
        self._beta_max = math.inf if beta_max is None else beta_max
        self._client = {GAMMA: float(gamma_beta), GROWTH: float(growth)}
        if beta_max is not None:
            self._client[BETA_MAX] = float(beta_max)
        self._with_client = "cl" in parts
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
        return self._beta if self._local is None else min(self._local.beta, self._beta_max)

    def _settings(self) -> str:
        return f"mode {self._mode}, alpha {self.alpha:g}, beta {self.beta:g}"

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        given = config.get("lr", self._beta)
        require(
            given == self._beta,
            "FedHyper",
            "beta",
            self._beta,
            f"differs from train_config's lr={given}",
            f"FedHyper sends the local rate, so write beta={given} or leave lr out",
        )
        config["lr"] = self.beta
        messages = super()._configure(round_, arrays, config, grid)
        if self._with_client and self._update is not None:
            self._record = unflatten(self._update, arrays, self._names)
        return messages

    def _address(self, message: Message) -> None:
        if not self._with_client:
            return
        only_config(message).update(self._client)
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

    def _own_state(self) -> dict[str, Any]:
        return {
            "global": None if self._global is None else self._global.state_dict(),
            "local": None if self._local is None else self._local.state_dict(),
            "update": self._update,
        }

    def _load_own(self, state: dict[str, Any]) -> None:
        rules = {"global": self._global, "local": self._local}
        require(
            all((rule is None) == (state[name] is None) for name, rule in rules.items()),
            "FedHyper.load_state_dict",
            "mode",
            self._mode,
            "is not the mode of the run that wrote the state",
            "construct with the arguments of that run",
        )
        for name, rule in rules.items():
            if rule is not None:
                rule.load_state_dict(state[name])
        self._update = state["update"]
