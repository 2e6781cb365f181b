"""Client selection on Flower: a two-phase round around any strategy.

    1  names     once per node: which partition are you?
    2  query     the model to `selector.candidates`, whose losses come back
    3  select    `selector.select` says who trains; the strategy within sees only those
    4  train     as ever; the replies are fed back to the selector

Node ids are drawn anew in every run, so a selection cannot be repeated by them. Clients are
known by their partition instead, a number, and where a node has none as "node 123...". The
order of clients, and of replies in sums, is by that name: with a seed, selections and weights
are the same whatever the ids are and whichever reply comes first.
"""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ...errors import require
from ...federated.selection import ClientReport, Selector
from ...state import Entries
from . import advice
from .metrics import check_metrics, examples_of, loss_of
from .records import (
    EXAMPLES,
    LABELS,
    LOSSES,
    SHARE,
    Trainable,
    clipped,
    describe,
    first_of,
    flat,
    listed,
    log,
    metrics_of,
    model_of,
    only_config,
    partition_of,
)
from .selected_grid import SelectedGrid
from .wrapper import Wrapper, chain

QUERY = "query.selection"
_POLL = 1.0  # seconds between looks at who is connected
# A weight of zero would divide by zero in the round in which only that client replies.
_LEAST_SHARE = 1e-6
_BY_ID = "it is known by its node id, so selections will not repeat in another run"

Name = int | str


class SelectClients(Wrapper):
    """Lets a selector of `hdet.federated.selection` say who trains, around any strategy.

        FedProx(fraction_train=0.1)  ->  SelectClients(FedProx(), HeteroSelect(), count=10)

    The strategy within must ask for all that it is shown: fraction_train 1.0, as by default.
    Evaluation is its own, on all nodes. Clients answer queries by `answer_query`.

    To weigh replies by the selector's scores, as HeteRo-Select's second version does, give the
    innermost strategy weighted_by_key="selection-share"; `reply` on the clients returns it.

    Args:
        strategy: what configures and aggregates; wrapped or not.
        selector: who chooses.
        count: how many train in a round, at least 1; all if fewer are connected.
        min_available_nodes: how many must be connected before a round begins; None is `count`.
        wait_timeout: seconds to wait for them, above 0, before the run ends with an error.
        query_timeout: seconds to wait for answers to queries, above 0. Whoever is later is
            silent to the selector.
        trainable: entries of the model that make an update, as for `FedHyper`.

    Raises:
        ValueError: if an argument is out of range, or the strategy within would wait for more
            nodes than it is shown.
    """

    def __init__(
        self,
        strategy: Strategy,
        selector: Selector,
        count: int,
        *,
        min_available_nodes: int | None = None,
        wait_timeout: float = 600.0,
        query_timeout: float = 600.0,
        trainable: Trainable = None,
    ) -> None:
        super().__init__(strategy)
        call = "SelectClients"
        require(count >= 1, call, "count", count, "must be at least 1", "choose somebody")
        least = count if min_available_nodes is None else min_available_nodes
        require(least >= 1, call, "min_available_nodes", least, "must be at least 1", "try 2")
        for name, seconds in (("wait_timeout", wait_timeout), ("query_timeout", query_timeout)):
            require(seconds > 0, call, name, seconds, "must be above 0", "600 is ten minutes")
        self._selector, self._count, self._trainable = selector, count, trainable
        self._wait_timeout, self._query_timeout = wait_timeout, query_timeout
        self._least = max(least, self._wanted_within())
        self._weighs = self._weight_key() == SHARE
        require(
            not self._weighs or hasattr(selector, "scores"),
            call,
            "selector",
            type(selector).__name__,
            f"has no scores to weigh replies by, which weighted_by_key={SHARE!r} asks for",
            "use HeteroSelect or HeteroSelectV2, or weigh by num-examples",
        )
        self._entries: list[str] = []
        self._names: dict[int, Name] = {}
        self._probed: list[Name] = []
        self._invited: dict[int, Name] = {}
        self._said: dict[str, str] = {}

    @property
    def selected(self) -> list[Name]:
        """Who was asked to train in the last round, by name, in order."""
        return list(self._invited.values())

    @property
    def probed(self) -> list[Name]:
        """Who was sent the model in the last round to be asked for its loss, in order."""
        return list(self._probed)

    def _wanted_within(self) -> int:
        """Return how many nodes the strategies within want to see; refuse the impossible."""
        wanted = 1
        for strategy in chain(self.strategy):
            fraction = getattr(strategy, "fraction_train", 1.0)
            require(
                fraction == 1.0,
                "SelectClients",
                "strategy",
                type(strategy).__name__,
                f"has fraction_train={fraction}, and would train only some of the selected",
                "leave it at 1.0, and give SelectClients the number of clients as count",
            )
            for name in ("min_train_nodes", "min_available_nodes"):
                number = getattr(strategy, name, 1)
                require(
                    number <= self._count,
                    "SelectClients",
                    "count",
                    self._count,
                    f"is less than the {name}={number} of {type(strategy).__name__}, which "
                    f"would wait for them for ever",
                    f"lower {name}, or select more; how many must be connected is "
                    f"SelectClients(min_available_nodes=...)",
                )
                wanted = max(wanted, number)
        return wanted

    def _settings(self) -> str:
        return f"{self._count} clients by {type(self._selector).__name__}"

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._entries = self._model.trainable(self._trainable, "SelectClients")
        node_of = self._online(grid)
        names = sorted(node_of, key=_place)
        self._probed = self._selector.candidates(names)
        nodes = [node_of[name] for name in self._probed]
        probes = self._probe(round_, arrays, nodes, grid) if nodes else None
        chosen = self._selector.select(round_, names, self._count, probes)
        self._invited = {node_of[name]: name for name in chosen}
        log.info("SelectClients: round %d trains on %s of %d clients, %d were probed",
                 round_, chosen, len(names), len(nodes))  # fmt: skip
        within = type(list(chain(self.strategy))[-1]).__name__
        shown = SelectedGrid(grid, list(self._invited), within)
        return super()._configure(round_, arrays, config, shown)

    def _address(self, message: Message) -> None:
        if self._weighs:
            scores: dict[Any, float] = getattr(self._selector, "scores", {})
            score = scores[self._invited[message.metadata.dst_node_id]]
            only_config(message)[SHARE] = max(float(score), _LEAST_SHARE)

    def _aggregate(
        self, round_: int, good: list[Message], rest: list[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        good = sorted(good, key=lambda reply: _place(self._name_of(reply)))
        # Read before aggregating, since some strategies use the replies' arrays up.
        reports = self._reports(good, updates=True)
        arrays, metrics = self._within(round_, good, rest)
        self._feed_back(round_, reports)
        if missing := sorted(set(self._invited.values()) - reports.keys(), key=_place):
            log.warning("SelectClients: round %d has no usable reply of %s; the selector goes "
                        "on without", round_, missing)  # fmt: skip
        return arrays, metrics

    def _feed_back(self, round_: int, reports: dict[Name, ClientReport]) -> None:
        """Tell the selector; if it refuses, one by one, so that a single one is passed over."""
        try:
            self._selector.feedback(round_, reports)
        except ValueError:
            for name, report in list(reports.items()):
                try:
                    self._selector.feedback(round_, {name: report})
                except ValueError as fault:
                    log.warning("SelectClients: round %d: the selector refuses what %s "
                                "reports: %s", round_, name, fault)  # fmt: skip
                    del reports[name]

    def _online(self, grid: Grid) -> dict[Name, int]:
        """Wait for enough nodes; return the node of each name."""
        end, said = time.monotonic() + self._wait_timeout, -1
        while len(nodes := list(grid.get_node_ids())) < self._least:
            if time.monotonic() > end:
                raise RuntimeError(
                    f"SelectClients waited {self._wait_timeout:g} s for {self._least} nodes, "
                    f"and {len(nodes)} are connected: start more, wait longer by "
                    f"wait_timeout, or begin with fewer by min_available_nodes."
                )
            if len(nodes) != said:
                said = len(nodes)
                log.info("SelectClients: waiting for nodes, %d of %d", said, self._least)
            time.sleep(_POLL)
        self._learn_names([node for node in nodes if node not in self._names], nodes, grid)
        return {self._names[node]: node for node in nodes}

    def _learn_names(self, new: list[int], online: Sequence[int], grid: Grid) -> None:
        if not new:
            return
        content = RecordDict({"config": ConfigRecord()})
        answers = self._ask([Message(content, node, QUERY) for node in new], grid)
        partitions = {answer.metadata.src_node_id: partition_of(answer) for answer in answers}
        taken = {self._names[node] for node in online if node in self._names}
        unnamed = []
        for node in sorted(new):
            name = partitions.get(node)
            if name is None:
                unnamed.append(node)
            elif name in taken:
                log.warning("node %d is a second partition %d; %s", node, name, _BY_ID)
            # A node that comes back with a new id takes up its partition's past.
            self._names[node] = f"node {node}" if name is None or name in taken else name
            taken.add(self._names[node])
        if unnamed:
            more = f"; nor did {listed(unnamed[1:])}" if len(unnamed) > 1 else ""
            log.warning("node %d named no partition; %s%s", unnamed[0], _BY_ID, more)

    def _probe(
        self, round_: int, arrays: ArrayRecord, nodes: Sequence[int], grid: Grid
    ) -> dict[Name, ClientReport]:
        config = ConfigRecord({"server-round": round_})
        if self._selector.probe_batches is not None:
            config["batches"] = self._selector.probe_batches
        content = RecordDict({"arrays": arrays, "config": config})
        answers = self._ask([Message(content, node, QUERY) for node in nodes], grid)
        return self._reports(answers, updates=False)

    def _ask(self, messages: list[Message], grid: Grid) -> list[Message]:
        """Return the answers, one a node; say who gave none."""
        asked = {message.metadata.dst_node_id for message in messages}
        answers: dict[int, Message] = {}
        failed: list[Message] = []
        for answer in grid.send_and_receive(messages, timeout=self._query_timeout):
            if answer.has_error():
                failed.append(answer)
            elif answer.has_content() and answer.metadata.src_node_id in asked:
                answers.setdefault(answer.metadata.src_node_id, answer)
        if failed:
            why = clipped(failed[0].error.reason or "no reason given")
            text = (
                f"node {describe(failed[0])} could not answer the query ({why}); it is silent "
                f"to the selector"
            )
            if others := [answer.metadata.src_node_id for answer in failed[1:]]:
                text += f"; so are {listed(others)}"
            if answers:
                log.warning("%s", text)
            else:
                self._say("queries", f"{text}. {advice.QUERY}")
        return list(answers.values())

    def _reports(self, replies: list[Message], updates: bool) -> dict[Name, ClientReport]:
        """Return what replies say, by name; those that say nothing usable are left out."""
        reports = {}
        old = flat(self._arrays, self._entries)
        for reply in replies:
            told = metrics_of(reply)
            try:
                examples = examples_of(told)
                if not updates:
                    # Answers to queries come from here, and were not sifted.
                    check_metrics(told, cast(str, first_of(told, EXAMPLES)))
                new = flat(model_of(reply), self._entries) if updates else None
                reports[self._name_of(reply)] = ClientReport(
                    loss=loss_of(told),
                    num_examples=examples,
                    duration=told.get("duration"),
                    update=None if new is None else new - old.to(new.dtype),
                    update_norm=told.get("update-norm"),
                    label_counts=told.get(LABELS),
                    squared_loss=told.get("squared-loss"),
                )
            except ValueError as fault:
                text = f"node {describe(reply)} told the selector nothing: {fault}"
                # Of replies that were sifted, all lack what one lacks.
                if updates:
                    self._say("loss", f"{text}. {advice.LOSS}")
                else:
                    log.warning("%s", text)
        return reports

    def _say(self, about: str, text: str) -> None:
        """Say something once a run: with the other advice, or now if that is past."""
        if about in self._said:
            return
        self._said[about] = text
        if self._advised:
            log.warning("SelectClients: %s", text)

    def _advice(self, told: set[str]) -> Sequence[str]:
        selector = type(self._selector).__name__
        if (loss := first_of(dict.fromkeys(told, 0.0), LOSSES)) not in (None, LOSSES[0]):
            log.info("SelectClients: the clients' metric %r is taken for %r", loss, LOSSES[0])
        lacking = [n for n in self._selector.goes_by if n.replace("_", "-") not in told]
        if "label_counts" in lacking:
            self._say(
                "labels",
                f"the clients send no {LABELS!r}, by which {selector} knows whose data are "
                f"unlike; without, that part of its choice is neutral. They tell the server "
                f"what a client has; diversity='updates' does without. {advice.LABEL_COUNTS}",
            )
        if more := [n.replace("_", "-") for n in lacking if n != "label_counts"]:
            self._say(
                "statistics",
                f"the clients do not send {' and '.join(map(repr, more))}, which {selector} "
                f"goes by; without, that part of its choice is neutral. {advice.TRAIN}",
            )
        return list(self._said.values())

    def _name_of(self, reply: Message) -> Name:
        node = reply.metadata.src_node_id
        return self._names.get(node, f"node {node}")

    def _own_state(self) -> dict[str, Any]:
        return self._selector.state_dict()

    def _parse_own(self, entries: Entries) -> Callable[[], None]:
        state = entries.whole()
        # On a copy first: what loads there will load in the caller's own selector.
        copy.deepcopy(self._selector).load_state_dict(state)
        return lambda: self._selector.load_state_dict(state)


def _place(name: Name) -> tuple[int, Name]:
    """Return a name's place in the canonical order: partitions by number, then nodes."""
    return (0, name) if isinstance(name, int) else (1, name)
