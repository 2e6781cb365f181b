"""How the Flower strategies of hdet wrap another strategy.

The idea: a `Wrapper` is a Flower strategy around any other. It changes what goes out and what
comes back, and leaves sampling, weighting and the server's optimizer to the strategy within.
Flower shares one config among all messages and all rounds; a wrapper gives each message its
own copy. Flower ends the run at a reply that does not fit; a wrapper leaves that reply out,
and says whose it was and why (`replies`), and what the strategy within sees and returns is
put into the model's own types (`model`).

    start -> configure_train -> [wrapper] -> inner.configure_train -> messages -> clients
    start <- aggregate_train <- [wrapper] <- inner.aggregate_train <- replies  <- clients
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ...state import Entries
from .inner_state import Shapes, memory_of, parse_memory, require_same_model, state_of
from .model import GlobalModel, Unfit
from .records import EXAMPLES, LABELS, PARTITION, log, metrics_of
from .replies import Sifted, Usual, sift

# So many replies of which all are wrong in the same way are no accident.
_ENOUGH = 5
# What a selector's registry counts to.
_MOST_ROUNDS = 2**31 - 1


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
        self._model = GlobalModel(self._arrays, type(self).__name__)
        self._round = self._rounds_before = 0
        self._trained, self._evaluated = Usual(), Usual()
        self._asked: dict[str, set[int]] = {}
        self._grid: Grid | None = None
        # Why nobody's reply was usable so far, in this run; None once one was.
        self._refused: list[tuple[int, Unfit]] | None = []
        self._advised = self._warned = False

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

        Raises:
            ValueError: if the model cannot be trained so.
        """
        name = type(self).__name__
        self._arrays, self._model = arrays, GlobalModel(arrays, f"{name}.start")
        if server_round == 1:
            # Every `start` counts from 1. FedAdam's bias correction and a selector's draws
            # depend on the round, so a run that is resumed counts on.
            self._rounds_before = self._round
            self._refused = []
        if not self._wraps_ours():
            for strategy in chain(self.strategy):
                require_same_model(strategy, self._model)
            if self._model.undefined and not self._warned:
                self._warned = True
                log.warning("%s: the model's entries %s hold NaN; those numbers are sent on "
                            "as they are, and never trained",
                            name, self._model.undefined)  # fmt: skip
        self._round, self._grid = server_round + self._rounds_before, grid
        messages = [
            _with_own_config(message)
            for message in self._configure(self._round, arrays, config.copy(), grid)
        ]
        for message in messages:
            self._address(message)
        self._asked["train"] = {message.metadata.dst_node_id for message in messages}
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

        Raises:
            RuntimeError: if since the start every reply was left out for the same reason, one
                that no further round would mend.
        """
        wanted, asked = self._wanted_metrics(), self._asked.get("train")
        sifted = sift(replies, self._model, wanted, self._trained, asked)
        self._stop_if_hopeless(sifted)
        return self._take(server_round + self._rounds_before, sifted.good, sifted.errors)

    def _take(
        self, round_: int, good: list[Message], rest: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate replies that are known to fit; what a wrapper around this one calls.

        Args:
            round_: the round, counted over all starts.
            good: the replies.
            rest: errors.
        """
        arrays, metrics = self._aggregate(round_, good, rest)
        if good and not self._advised:
            self._advise(set(metrics_of(good[0])))
            self._advised = True
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
        messages = list(self.strategy.configure_evaluate(at, arrays, config.copy(), grid))
        self._asked["evaluate"] = {message.metadata.dst_node_id for message in messages}
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the mean of the clients' metrics; replies that do not fit are left out."""
        wanted, asked = [self._weight_key()], self._asked.get("evaluate")
        sifted = sift(replies, None, wanted, self._evaluated, asked)
        at = server_round + self._rounds_before
        return self._evaluate(at, sifted.good, sifted.errors)

    def _evaluate(
        self, round_: int, good: list[Message], errors: list[Message]
    ) -> MetricRecord | None:
        if isinstance(self.strategy, Wrapper):
            return self.strategy._evaluate(round_, good, errors)
        return self.strategy.aggregate_evaluate(round_, good + errors)

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
            "model": {name: list(shape) for name, shape in self._model.shapes.items()},
            "usual": [self._trained.state_dict(), self._evaluated.state_dict()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of `state_dict`; then `start` with the model of that time.

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
        """Return what takes up a state, this strategy's and those within; changes nothing yet.

        Raises:
            ValueError: as for `load_state_dict`.
        """
        strangers = sorted(set(entries.keys()) - {"round", "own", "strategy", "model", "usual"})
        if strangers:
            entries.refuse("", strangers, "must have no such entries")
        round_ = entries.integer("round", high=_MOST_ROUNDS)
        # Older states have neither of the two.
        shapes = None
        if entries.has("model"):
            model = entries.entries("model")
            shapes = {key: tuple(model.integers(key)) for key in model.keys()}  # noqa: SIM118
        rows = list(entries.rows("usual", 2)) if entries.has("usual") else []
        usual = [Usual.parsed(row) for row in rows] or [Usual(), Usual()]
        within = _parse_within(self.strategy, entries, shapes)
        own = self._parse_own(entries.entries("own"))

        def assign() -> None:
            within()
            own()
            self._round, (self._trained, self._evaluated) = round_, usual

        return assign

    def _wanted_metrics(self) -> list[str]:
        """Return the metrics that the strategies within must find: first, what weighs."""
        losses = [
            getattr(strategy, "train_loss_key", None) for strategy in chain(self.strategy)
        ]
        return [self._weight_key(), *(key for key in losses if key is not None)]

    def _weight_key(self) -> str:
        """Return the metric by which the strategy within weighs replies."""
        keys = [getattr(inner, "weighted_by_key", None) for inner in chain(self.strategy)]
        return next((key for key in keys if key is not None), EXAMPLES[0])

    def _wraps_ours(self) -> bool:
        return any(isinstance(strategy, Wrapper) for strategy in chain(self.strategy))

    def _within(
        self, round_: int, replies: list[Message], errors: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the strategy within aggregate; an error passes through, with a word first."""
        try:
            if isinstance(self.strategy, Wrapper):
                return self.strategy._take(round_, replies, errors)
            if self._wraps_ours():
                return self.strategy.aggregate_train(round_, replies + errors)
            return self._within_in_plain(round_, replies, errors)
        except Exception:
            name = type(self).__name__
            log.error("%s: round %d failed in the strategy within, and changed nothing in %s",
                      name, round_, name)  # fmt: skip
            raise

    def _within_in_plain(
        self, round_: int, replies: list[Message], errors: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        model = self._model
        ranges, go_back = model.ranges(replies), memory_of(self.strategy)
        for reply in replies:
            model.make_plain(reply)
        arrays, metrics = self.strategy.aggregate_train(round_, replies + errors)
        if arrays is None:
            return None, metrics
        if broken := model.broken(arrays):
            go_back()
            log.error("%s: round %d: %s made a model of the replies whose entries %s are not "
                      "finite; the round is left out, and nothing has changed",
                      type(self).__name__, round_, type(self.strategy).__name__,
                      broken)  # fmt: skip
            return None, None
        return model.restored(arrays, ranges), metrics

    def _stop_if_hopeless(self, sifted: Sifted) -> None:
        """Raise if nobody's reply was ever usable, for one reason that stays what it is.

        It takes several nodes to say so, or all that there are: one may be broken. Where few
        are asked in a round, that is after several rounds.
        """
        if sifted.good:
            self._refused = None
        if self._refused is None or self._grid is None:
            return
        self._refused += sifted.left_out.items()
        reasons = {str(fault) for _, fault in self._refused}
        if len(reasons) != 1 or not all(fault.structural for _, fault in self._refused):
            return
        heard = len({node for node, _ in self._refused})
        there = len(list(self._grid.get_node_ids()))
        if heard >= min(_ENOUGH, there) or (heard > 2 and len(self._refused) >= _ENOUGH):
            raise RuntimeError(
                f"{type(self).__name__}: every reply since the start was left out, and further "
                f"rounds would train nothing: {heard} of {there} nodes {reasons.pop()}. Make "
                f"the clients send back what they are sent, entry by entry, with metrics that "
                f"are finite numbers; `hdet.integrations.flower.reply` does."
            )

    def _advise(self, told: set[str]) -> None:
        name = type(self).__name__
        for metric, other in self._trained.understood.items():
            log.info("%s: the clients' metric %r is taken for %r", name, other, metric)
        for advice in self._advice(told):
            log.warning("%s: %s", name, advice)

    # What a wrapper may change.

    def _settings(self) -> str:
        return ""

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self._wraps_ours():
            return self.strategy.configure_train(round_, arrays, config, grid)
        plain = self._model.plain(arrays)
        messages = list(self.strategy.configure_train(round_, plain, config, grid))
        for message in messages:
            self._model.dress(message, plain)
        return messages

    def _address(self, message: Message) -> None:
        """Add to a message what its client alone, or this wrapper's clients, are to know."""

    def _aggregate(
        self, round_: int, good: list[Message], rest: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return self._within(round_, good, rest)

    def _advice(self, told: set[str]) -> Sequence[str]:
        """Return what clients do not do, and the lines to add; said once, after round one.

        Args:
            told: the names of the metrics that they send.
        """
        del told
        return []

    def _own_state(self) -> dict[str, Any]:
        return {}

    def _parse_own(self, entries: Entries) -> Callable[[], None]:
        """Return what takes up this wrapper's own state; changes nothing yet."""
        del entries
        return lambda: None


def chain(strategy: Any) -> Iterator[Strategy]:
    """Yield a strategy and those within it, outermost first; Flower's wrappers too."""
    while isinstance(strategy, Strategy):
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def _parse_within(strategy: Any, entries: Entries, shapes: Shapes | None) -> Callable[[], None]:
    """Return what gives the strategies within their part of a state; changes nothing yet."""
    if not isinstance(strategy, Wrapper) and hasattr(strategy, "load_state_dict"):
        given = entries.raw("strategy")
        return lambda: strategy.load_state_dict(given)
    inside = entries.entries("strategy")
    if isinstance(strategy, Wrapper):
        return strategy._parse(inside)
    own = parse_memory(strategy, inside, shapes)
    if not hasattr(strategy, "strategy"):
        return own
    within = _parse_within(strategy.strategy, inside, shapes)

    def assign() -> None:
        within()
        own()

    return assign


def _with_own_config(message: Message) -> Message:
    """Give a message its own config; the arrays, which nobody changes, stay shared."""
    content = message.content
    configs = {key: config.copy() for key, config in content.config_records.items()}
    message.content = RecordDict({**dict(content.items()), **configs})
    return message
