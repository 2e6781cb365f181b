"""How the Flower strategies of hdet wrap another strategy.

A `Wrapper` is a Flower strategy around any other. It changes messages on their way out and
replies on their way back, and leaves sampling, weighting and the server's optimizer to the
wrapped strategy. Flower shares one config among all messages and all rounds; a wrapper gives
each message its own copy. Flower ends the run at an unusable reply; a wrapper leaves that reply
out and logs whose it was and why (`replies`), and converts the model for the wrapped strategy
and back (`model`).

    start -> configure_train -> [wrapper] -> wrapped.configure_train -> messages -> clients
    start <- aggregate_train <- [wrapper] <- wrapped.aggregate_train <- replies  <- clients

Wrappers can be nested. The outermost reads the model and checks the replies, once a round, and
the others use what it found.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ...state import Entries
from .memory import Shapes, memory_of, parse_memory, require_same_model, state_of
from .model import GlobalModel
from .records import EXAMPLES, LABELS, PARTITION, log, metrics_of
from .replies import HopelessRun, Usual, sift

# A selector counts no further.
_MAX_ROUNDS = 2**31 - 1

Aggregated = tuple[ArrayRecord | None, MetricRecord | None]


class Wrapper(Strategy):
    """A strategy around another; on its own it only checks and sorts the replies.

    Args:
        strategy: any Flower strategy, wrapped or not.

    Raises:
        TypeError: if `strategy` is not a strategy.
    """

    def __init__(self, strategy: Strategy) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(
                f"`{type(self).__name__}(strategy={strategy!r})` must be a strategy of "
                f"flwr.serverapp.strategy, or a wrapper of one: give FedAvg(), for example."
            )
        self.strategy = strategy
        self._arrays = ArrayRecord()
        self._model = GlobalModel(self._arrays, type(self).__name__)
        # The round's model, given by a wrapper around this one, which then checks the replies.
        self._given: GlobalModel | None = None
        self._is_inner = False
        self._round = self._rounds_before = 0
        self._usual = {"train": Usual(), "evaluate": Usual()}
        self._asked: dict[str, set[int]] = {}
        self._grid: Grid | None = None
        self._hopeless = HopelessRun()
        self._advised = self._warned = False

    def summary(self) -> None:
        """Log this strategy's settings, and those of the wrapped ones."""
        log.info("\t├──> %s: %s", type(self).__name__, self._settings())
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the round's messages, each with a config of its own.

        Args:
            server_round: the round, from 1 in each call of `start`.
            arrays: the global model.
            config: the caller's config for the clients; a copy of it is changed.
            grid: the nodes.

        Raises:
            ValueError: if the model cannot be trained so.
        """
        self._take_model(arrays)
        if server_round == 1:
            # Every `start` counts from 1. FedAdam's bias correction and a selector's draws
            # depend on the round, so a run that is resumed counts on.
            self._rounds_before = self._round
            self._hopeless = HopelessRun()
        self._round, self._grid = server_round + self._rounds_before, grid
        messages = [
            _with_own_config(message)
            for message in self._configure(self._round, arrays, config.copy(), grid)
        ]
        for message in messages:
            self._address(message)
        self._asked["train"] = {message.metadata.dst_node_id for message in messages}
        return messages

    def _take_model(self, arrays: ArrayRecord) -> None:
        name, given, self._given = type(self).__name__, self._given, None
        self._is_inner = given is not None
        if given is None or given.arrays is not arrays:  # a strategy in between may change it
            given = GlobalModel(arrays, f"{name}.start")
        self._arrays, self._model = arrays, given
        inner = [s for s in chain(self.strategy) if isinstance(s, Wrapper)]
        for wrapper in inner:
            wrapper._given = self._model
        if inner:
            return
        for strategy in chain(self.strategy):
            require_same_model(strategy, self._model)
        if self._model.undefined and not self._warned:
            self._warned = True
            log.warning("%s: the model's entries %s hold NaN; those numbers are sent on as "
                        "they are, and never trained", name, self._model.undefined)  # fmt: skip

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregated:
        """Return the new global model and the mean of the clients' metrics.

        Args:
            server_round: the round.
            replies: of the clients; unusable ones are left out, with a warning.

        Returns:
            (model, metrics), or (None, None) if the round failed; then nothing has changed.

        Raises:
            RuntimeError: if since the start every reply was left out for the same reason, one
                that further rounds would not change.
        """
        good, errors = self._checked("train", replies)
        arrays, metrics = self._aggregate(server_round + self._rounds_before, good, errors)
        if good and not self._advised:
            for metric, other in self._usual["train"].aliases.items():
                log.info("%s: the clients' metric %r is used as %r",
                         type(self).__name__, other, metric)  # fmt: skip
            for advice in self._advice(set(metrics_of(good[0]))):
                log.warning("%s: %s", type(self).__name__, advice)
            self._advised = True
        if metrics is not None:
            # Their means over clients say nothing.
            metrics.pop(PARTITION, None)
            metrics.pop(LABELS, None)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of the wrapped strategy, which gets a copy of `config`.

        Args:
            server_round: the round.
            arrays: the global model.
            config: the caller's config for the clients.
            grid: the nodes.
        """
        at = server_round + self._rounds_before
        messages = list(self.strategy.configure_evaluate(at, arrays, config.copy(), grid))
        self._asked["evaluate"] = {message.metadata.dst_node_id for message in messages}
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the mean of the clients' metrics.

        Args:
            server_round: the round.
            replies: of the clients; unusable ones are left out, with a warning.
        """
        good, errors = self._checked("evaluate", replies)
        at = server_round + self._rounds_before
        return self.strategy.aggregate_evaluate(at, good + errors)

    def _checked(
        self, kind: str, replies: Iterable[Message]
    ) -> tuple[list[Message], list[Message]]:
        """Return the usable replies and the errors, which only the outermost wrapper checks."""
        replies = list(replies)
        if self._is_inner:
            good = [reply for reply in replies if not reply.has_error()]
            return good, [reply for reply in replies if reply.has_error()]
        trained, wanted = kind == "train", [self._weight_key()]
        if trained:
            losses = [getattr(s, "train_loss_key", None) for s in chain(self.strategy)]
            wanted += [key for key in losses if key is not None]
        model = self._model if trained else None
        sifted = sift(replies, model, wanted, self._usual[kind], self._asked.get(kind))
        if trained and self._grid is not None:
            self._hopeless.check(type(self).__name__, sifted, self._grid)
        return sifted.good, sifted.errors

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and tensors: with the model, all that a resumed run needs.

        Of Flower's strategies it holds the memory of FedAvgM, FedAdam, FedYogi and FedAdagrad,
        and adaptive clipping norms; of others, the result of their own `state_dict`, if they
        have one. Privacy accountants are not in it.
        """
        return {
            "round": self._round,
            "own": self._own_state(),
            "strategy": state_of(self.strategy),
            "model": {name: list(shape) for name, shape in self._model.shapes.items()},
            "usual": [usual.state_dict() for usual in self._usual.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state of `state_dict`; then `start` with the model of that time.

        Rounds go on counting; only Flower's `Result` counts from 1 again.

        Args:
            state: of a strategy that was wrapped in the same way.

        Raises:
            ValueError: if it is another's, or damaged; nothing is changed then.
        """
        name = type(self).__name__
        call = f"`{name}.load_state_dict(state=...)`"
        source = "`state_dict()` of strategies wrapped in the same order"
        self._parse(Entries(state, name, call=call, source=source))()

    def _parse(self, entries: Entries) -> Callable[[], None]:
        """Return a function that assigns a state, here and in wrapped strategies.

        Raises:
            ValueError: as for `load_state_dict`; nothing is changed then.
        """
        known = {"round", "own", "strategy", "model", "usual"}
        if unknown := sorted(set(entries.keys()) - known):
            entries.refuse("", unknown, "must have no such entries")
        round_ = entries.integer("round", high=_MAX_ROUNDS)
        # Older states have neither of the two.
        shapes = None
        if entries.has("model"):
            model = entries.entries("model")
            shapes = {key: tuple(model.integers(key)) for key in model.keys()}  # noqa: SIM118
        rows = list(entries.rows("usual", 2)) if entries.has("usual") else []
        usual = [Usual.parsed(row) for row in rows] or [Usual(), Usual()]
        assign_wrapped = _parse_wrapped(self.strategy, entries, shapes)
        assign_own = self._parse_own(entries.entries("own"))

        def assign() -> None:
            assign_wrapped()
            assign_own()
            self._round, self._usual = round_, dict(zip(self._usual, usual, strict=True))

        return assign

    def _weight_key(self) -> str:
        """Return the metric by which the wrapped strategy weights replies."""
        keys = [getattr(inner, "weighted_by_key", None) for inner in chain(self.strategy)]
        return next((key for key in keys if key is not None), EXAMPLES[0])

    def _wraps_a_wrapper(self) -> bool:
        return any(isinstance(strategy, Wrapper) for strategy in chain(self.strategy))

    def _wrapped(
        self, round_: int, replies: list[Message], errors: list[Message]
    ) -> Aggregated:
        """Let the wrapped strategy aggregate; an exception is logged and passes through."""
        try:
            if self._wraps_a_wrapper():
                return self.strategy.aggregate_train(round_, replies + errors)
            return self._wrapped_plain(round_, replies, errors)
        except Exception:
            name = type(self).__name__
            log.error("%s: round %d failed in the wrapped strategy, and changed nothing in %s",
                      name, round_, name)  # fmt: skip
            raise

    def _wrapped_plain(
        self, round_: int, replies: list[Message], errors: list[Message]
    ) -> Aggregated:
        model = self._model
        ranges, go_back = model.ranges(replies), memory_of(self.strategy)
        for reply in replies:
            model.make_plain(reply)
        arrays, metrics = self.strategy.aggregate_train(round_, replies + errors)
        if arrays is None:
            return None, metrics
        if broken := model.not_finite(arrays):
            go_back()
            log.error("%s: round %d: %s made a model of the replies whose entries %s are not "
                      "finite; the round is left out, and nothing has changed",
                      type(self).__name__, round_, type(self.strategy).__name__,
                      broken)  # fmt: skip
            return None, None
        return model.restored(arrays, ranges), metrics

    # What a subclass may change.

    def _settings(self) -> str:
        return ""

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self._wraps_a_wrapper():
            return self.strategy.configure_train(round_, arrays, config, grid)
        plain = self._model.plain(arrays)
        messages = list(self.strategy.configure_train(round_, plain, config, grid))
        for message in messages:
            self._model.restore_in(message, plain)
        return messages

    def _address(self, message: Message) -> None:
        """Add to a message what is meant for its client alone, or for all."""

    def _aggregate(self, round_: int, good: list[Message], errors: list[Message]) -> Aggregated:
        return self._wrapped(round_, good, errors)

    def _advice(self, metrics: set[str]) -> Sequence[str]:
        """Return what clients that send these metrics lack, to be logged after round one."""
        del metrics
        return []

    def _own_state(self) -> dict[str, Any]:
        return {}

    def _parse_own(self, entries: Entries) -> Callable[[], None]:
        """Return a function that assigns this wrapper's own state; changes nothing yet."""
        del entries
        return lambda: None


def chain(strategy: Any) -> Iterator[Strategy]:
    """Yield a strategy and those that it wraps, outermost first; Flower's wrappers too."""
    while isinstance(strategy, Strategy):
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def _parse_wrapped(
    strategy: Any, entries: Entries, shapes: Shapes | None
) -> Callable[[], None]:
    """Return a function that assigns the wrapped strategies' state; changes nothing yet."""
    if not isinstance(strategy, Wrapper) and hasattr(strategy, "load_state_dict"):
        given = entries.raw("strategy")
        return lambda: strategy.load_state_dict(given)
    inside = entries.entries("strategy")
    if isinstance(strategy, Wrapper):
        return strategy._parse(inside)
    own = parse_memory(strategy, inside, shapes)
    if not hasattr(strategy, "strategy"):
        return own
    wrapped = _parse_wrapped(strategy.strategy, inside, shapes)

    def assign() -> None:
        wrapped()
        own()

    return assign


def _with_own_config(message: Message) -> Message:
    """Give a message its own config; the arrays, which nobody changes, stay shared."""
    content = message.content
    configs = {key: config.copy() for key, config in content.config_records.items()}
    message.content = RecordDict({**dict(content.items()), **configs})
    return message
