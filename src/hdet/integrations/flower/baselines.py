"""Rates to compare FedHyper with, on Flower: FedExP, and exponential decay.

Sources: `hdet.federated.baselines`.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ...errors import require
from ...federated import Decay as DecayingRate
from ...federated import FedExP as ExtrapolatedRate
from ...state import Entries
from .records import Trainable, log, rate_names, tensor
from .scaled_step import MeanUpdate, ScaledStep


class FedExP(ScaledStep):
    """FedExP around any Flower strategy: the server extrapolates where clients disagree.

    Its steps overshoot by design, so judge it by `final_arrays`, the mean of the last two
    models, and not by the last one, which Flower's `Result` holds. The metrics of each round
    hold "fedexp-alpha".

    Args:
        strategy: what aggregates; FedAvg is the paper's.
        eps: see `hdet.federated.FedExP`.
        trainable: as for `FedHyper`.

    Raises:
        ValueError: if `eps` is negative.
    """

    def __init__(
        self, strategy: Strategy, eps: float = 1e-3, *, trainable: Trainable = None
    ) -> None:
        super().__init__(strategy, trainable)
        self._eta = ExtrapolatedRate(eps)
        self._iterates: list[ArrayRecord] = []

    @property
    def final_arrays(self) -> ArrayRecord:
        """The mean of the last two models: before and after the last round that succeeded.

        Entries that are not trainable are the last model's.

        Raises:
            RuntimeError: before the first round that succeeded.
        """
        if not self._iterates:
            raise RuntimeError(
                "`FedExP.final_arrays` is there after the first round that succeeded: read it "
                "after `start(...)` has returned."
            )
        last = self._iterates[-1]
        arrays = dict(last.items())
        for name in self._names:
            pair = torch.stack([tensor(iterate[name]) for iterate in self._iterates])
            arrays[name] = Array(pair.double().mean(0).to(pair.dtype).numpy())
        return ArrayRecord(arrays)

    def _rate(self, mean: MeanUpdate) -> tuple[float, dict[str, Any]]:
        eta = self._eta.update(mean.delta, mean.squared_norms, mean.weights)
        return eta, {"fedexp-alpha": eta}

    def _scaled(self, inner: ArrayRecord, alpha: float) -> ArrayRecord:
        new = super()._scaled(inner, alpha)
        self._iterates = [self._arrays, new]
        return new


class Decay(ScaledStep):
    """A rate that shrinks by a constant factor every round that succeeds.

    The metrics of each round hold "decay-alpha" or "decay-beta".

    Args:
        strategy: what aggregates.
        rate: of round one, above 0; as `of="global"` 1.0 is the strategy within.
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
        require(
            of in ("local", "global"),
            "Decay",
            "of",
            of,
            'must be "local" or "global"',
            '"local" decays the rate of the clients',
        )
        self._decay, self._local = DecayingRate(rate, factor), of == "local"
        self._start, self._rate_key, self._said = float(rate), rate_key, False

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self._local:
            # Read ahead on a copy: a round that fails is repeated at its rate.
            now = copy.copy(self._decay).update()
            names = rate_names(config, self._rate_key)
            others = {n: config[n] for n in names if config.get(n, self._start) != self._start}
            if others and not self._said:
                self._said = True
                log.warning("Decay: the clients' rate begins at rate=%g, and train_config's %s "
                            "is not used", self._start, others)  # fmt: skip
            config.update(dict.fromkeys(names, now))
        return super()._configure(round_, arrays, config, grid)

    def _rate(self, mean: MeanUpdate) -> tuple[float, dict[str, Any]]:
        rate = self._decay.update()
        return (1.0, {"decay-beta": rate}) if self._local else (rate, {"decay-alpha": rate})

    def _own_state(self) -> dict[str, Any]:
        return self._decay.state_dict()

    def _parse_own(self, entries: Entries) -> Callable[[], None]:
        entries.integer("rounds")
        fresh = copy.copy(self._decay)
        fresh.load_state_dict(entries.whole())
        if not copy.copy(fresh).update() > 0:
            entries.refuse("rounds", entries.raw("rounds"), "must leave a rate above 0")

        def assign() -> None:
            self._decay = fresh

        return assign
