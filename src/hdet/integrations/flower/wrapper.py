"""How the Flower strategies of hdet wrap another strategy.

The idea: a `Wrapper` is a Flower strategy around any other. It changes what goes out and what
comes back, and leaves sampling, weighting and the server's optimizer to the strategy within.
Flower shares one config among all messages and all rounds; a wrapper gives each message its
own copy. Flower ends the run at a reply that does not fit; a wrapper leaves that reply out,
and says whose it was and why.

    start -> configure_train -> [wrapper] -> inner.configure_train -> messages -> clients
    start <- aggregate_train <- [wrapper] <- inner.aggregate_train <- replies  <- clients
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from .records import LABELS, PARTITION, log, sift


class Wrapper(Strategy):
    """A strategy around another; on its own it changes nothing but the order of replies.

    Args:
        strategy: any Flower strategy, wrapped or not.

    Raises:
        TypeError: if `strategy` is none.
    """

    def __init__(self, strategy: Strategy) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(
                f"`{type(self).__name__}(strategy={strategy!r})` must be a strategy of "
                f"flwr.serverapp.strategy, or a wrapper of one: give FedAvg(), for example."
            )
        self.strategy = strategy
        self._arrays = ArrayRecord()
        self._round = self._rounds_before = 0

    def summary(self) -> None:
        """Log this strategy's settings, and those of the strategies within."""
        log.info("\t├──> %s: %s", type(self).__name__, self._settings())
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the round's messages, each with a config of its own.

        Args:
            server_round: the round, from 1 in each call of `start`.
            arrays: the global model.
            config: what the caller wants clients to be told; a copy of it is changed.
            grid: the nodes.
        """
        if server_round == 1:
            # Every `start` counts from 1. FedAdam's bias correction and a selector's draws
            # depend on the round, so a run that is resumed counts on.
            self._rounds_before = self._round
        self._round, self._arrays = server_round + self._rounds_before, arrays
        messages = [
            _with_own_config(message)
            for message in self._configure(self._round, arrays, config.copy(), grid)
        ]
        for message in messages:
            self._address(message)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new global model and the mean of the clients' metrics.

        Args:
            server_round: the round.
            replies: of the clients; those that do not fit are left out, with a warning.

        Returns:
            (model, metrics), or (None, None) if the round failed; then nothing has changed.
        """
        at = server_round + self._rounds_before
        good, rest = sift(replies, self._arrays, self._weight_key())
        arrays, metrics = self._aggregate(at, good, rest)
        if metrics is not None:
            # Means over clients that say nothing.
            metrics.pop(PARTITION, None)
            metrics.pop(LABELS, None)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return what the strategy within returns; `config` is copied."""
        at = server_round + self._rounds_before
        return self.strategy.configure_evaluate(at, arrays, config.copy(), grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return what the strategy within returns."""
        at = server_round + self._rounds_before
        return self.strategy.aggregate_evaluate(at, replies)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and tensors: with the model, all that a resumed run needs.

        Of Flower's strategies it holds what FedAvgM, FedAdam, FedYogi and FedAdagrad
        remember, and adaptive clipping norms; of others, what their own `state_dict` returns,
        if they have one. Privacy accountants are not in it.
        """
        return {
            "round": self._round,
            "own": self._own_state(),
            "strategy": state_of(self.strategy),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of `state_dict`; then `start` with the model of that time.

        Rounds go on counting; only Flower's `Result` counts from 1 again.

        Args:
            state: of a strategy that was wrapped in the same way.

        Raises:
            ValueError: if it is another's.
        """
        if set(state) != {"round", "own", "strategy"}:
            raise ValueError(
                f"`{type(self).__name__}.load_state_dict(state=...)` must be what state_dict() "
                f"of strategies wrapped in the same order returned: it holds {sorted(state)}."
            )
        self._load_own(state["own"])
        load_state_of(self.strategy, state["strategy"])
        self._round = int(state["round"])

    def _weight_key(self) -> str:
        """Return the metric by which the strategy within weighs replies."""
        for strategy in chain(self.strategy):
            key = getattr(strategy, "weighted_by_key", None)
            if key is not None:
                return key
        return "num-examples"

    def _within(
        self, round_: int, replies: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the strategy within aggregate; an error passes through, with a word first."""
        try:
            return self.strategy.aggregate_train(round_, replies)
        except Exception:
            name = type(self).__name__
            log.error("%s: round %d failed in the strategy within, and changed nothing in %s",
                      name, round_, name)  # fmt: skip
            raise

    # What a wrapper may change.

    def _settings(self) -> str:
        return ""

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.strategy.configure_train(round_, arrays, config, grid)

    def _address(self, message: Message) -> None:
        """Add to a message what its client alone, or this wrapper's clients, are to know."""

    def _aggregate(
        self, round_: int, good: list[Message], rest: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self._within(round_, good + rest)

    def _own_state(self) -> dict[str, Any]:
        return {}

    def _load_own(self, state: dict[str, Any]) -> None:
        del state


def chain(strategy: Any) -> Iterator[Strategy]:
    """Yield a strategy and those within it, outermost first; Flower's wrappers too."""
    while isinstance(strategy, Strategy):
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def state_of(strategy: Any) -> dict[str, Any]:
    """Return what a wrapped strategy remembers, as far as it can be read; see `Wrapper`."""
    if hasattr(strategy, "state_dict"):
        return strategy.state_dict()
    state = {n: _plain(getattr(strategy, n)) for n in _REMEMBERED if hasattr(strategy, n)}
    if hasattr(strategy, "strategy"):
        state["strategy"] = state_of(strategy.strategy)
    return state


def load_state_of(strategy: Any, state: dict[str, Any]) -> None:
    """Give a wrapped strategy what `state_of` returned."""
    if hasattr(strategy, "load_state_dict"):
        strategy.load_state_dict(state)
    else:
        for name in set(state) - {"strategy"}:
            setattr(strategy, name, _arrays(state[name]))
        if "strategy" in state:
            load_state_of(strategy.strategy, state["strategy"])


_REMEMBERED = ("momentum_vector", "m_t", "v_t", "clipping_norm")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    return value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_arrays(entry) for entry in value]
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value


def _with_own_config(message: Message) -> Message:
    """Give a message its own config; the arrays, which nobody changes, stay shared."""
    content = message.content
    configs = {key: config.copy() for key, config in content.config_records.items()}
    message.content = RecordDict({**dict(content.items()), **configs})
    return message
