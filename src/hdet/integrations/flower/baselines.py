"""Baselines for FedHyper's rates, on Flower: FedExP, and exponential decay.

Sources: `hdet.federated.baselines`.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ...errors import require_choice
from ...federated import Decay as DecayRule
from ...federated import FedExP as FedExPRule
from ...state import Entries
from .records import Trainable, log, rate_names
from .scaled_step import MeanUpdate, ScaledStep, between


class FedExP(ScaledStep):
    """FedExP around any Flower strategy: the server extrapolates where clients disagree.

    Its steps overshoot by design, so evaluate it by `final_arrays`, the mean of the last two
    models, and not by the last one, which is in Flower's `Result`. The metrics of each round
    have "fedexp-alpha".

    Args:
        strategy: aggregates the replies; FedAvg is the paper's.
        eps: see `hdet.federated.FedExP`.
        trainable: as for `FedHyper`.

    Raises:
        ValueError: if `eps` is negative.
    """

    def __init__(
        self, strategy: Strategy, eps: float = 1e-3, *, trainable: Trainable = None
    ) -> None:
        super().__init__(strategy, trainable)
        self._rule = FedExPRule(eps)
        self._last_two: tuple[ArrayRecord, ArrayRecord] | None = None

    @property
    def final_arrays(self) -> ArrayRecord:
        """The mean of the last two models: before and after the last round that succeeded.

        Entries that are not trainable are the last model's.

        Raises:
            RuntimeError: before the first round that succeeded.
        """
        if self._last_two is None:
            raise RuntimeError(
                "`FedExP.final_arrays` exists after the first round that succeeded: read it "
                "after `start(...)` has returned."
            )
        before, last = self._last_two
        means = {name: between(before[name], last[name], 0.5) for name in self._names}
        return ArrayRecord({**dict(last.items()), **means})

    def _rate(self, mean: MeanUpdate) -> tuple[float, dict[str, Any]]:
        alpha = self._rule.update(mean.delta, mean.squared_norms, mean.weights)
        return alpha, {"fedexp-alpha": alpha}

    def _scaled(self, wrapped: ArrayRecord, alpha: float) -> ArrayRecord:
        new = super()._scaled(wrapped, alpha)
        self._last_two = (self._arrays, new)
        return new


class Decay(ScaledStep):
    """A rate that shrinks by a constant factor every round that succeeds.

    The metrics of each round have "decay-alpha" or "decay-beta".

    Args:
        strategy: aggregates the replies.
        rate: of round one, above 0; with `of="global"` 1.0 is the wrapped strategy.
        factor: in (0, 1]; the default is that of FedHyper's own comparison.
        of: "local", the clients' rate, sent as `config["lr"]`, or "global", the server's.
        trainable: as for `FedHyper`.
        rate_key: as for `FedHyper`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        strategy: Strategy,
        rate: float,
        factor: float = 0.995,
        *,
        of: str = "local",
        trainable: Trainable = None,
        rate_key: str | None = None,
    ) -> None:
        super().__init__(strategy, trainable)
        remedy = '"local" decays the rate of the clients'
        require_choice("Decay", "of", of, ("local", "global"), remedy)
        self._rule, self._local = DecayRule(rate, factor), of == "local"
        self._start, self._rate_key, self._rate_warned = float(rate), rate_key, False

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self._local:
            names = rate_names(config, self._rate_key)
            others = {n: config[n] for n in names if config.get(n, self._start) != self._start}
            if others and not self._rate_warned:
                self._rate_warned = True
                log.warning("Decay: the clients' rate begins at rate=%g, and train_config's %s "
                            "is not used", self._start, others)  # fmt: skip
            config.update(dict.fromkeys(names, self._rule.rate))
        return super()._configure(round_, arrays, config, grid)

    def _rate(self, mean: MeanUpdate) -> tuple[float, dict[str, Any]]:
        rate = self._rule.update()
        return (1.0, {"decay-beta": rate}) if self._local else (rate, {"decay-alpha": rate})

    def _own_state(self) -> dict[str, Any]:
        return self._rule.state_dict()

    def _parse_own(self, entries: Entries) -> Callable[[], None]:
        entries.integer("rounds")
        rule = copy.copy(self._rule)
        rule.load_state_dict(entries.whole())

        def assign() -> None:
            self._rule = rule

        return assign
