"""Client selection on Flower: a two-phase round around any strategy.

    1  names     once per node: which partition are you?
    2  query     the model to `selector.candidates`, who answer with its loss
    3  select    `selector.select` chooses the clients; the wrapped strategy sees only those
    4  train     as ever; the selector learns from the replies

Node ids are new in every run, so a selection cannot be repeated by them. Clients are known by
their partition instead, a number, or as "node 123..." if a node has none. The order of clients,
and of replies in sums, is by that name: with a seed, selections and weights are the same
whatever the ids are and whichever reply comes first.
"""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ...errors import require, require_number, require_whole
from ...federated.selection import ClientReport, Selector
from ...state import Entries
from . import advice
from .metrics import check_metrics, number_of
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
from .wrapper import Aggregated, Wrapper, chain

QUERY = "query.selection"
_POLL = 1.0  # seconds between looks at who is connected
# With a weight of zero, a round in which only that client replies would divide by zero.
_MIN_SHARE = 1e-6
_BY_ID = "it is known by its node id, so selections will not repeat in another run"

Name = int | str


class SelectClients(Wrapper):
    """Lets a selector of `hdet.federated.selection` choose the clients, around any strategy.

        FedProx(fraction_train=0.1)  ->  SelectClients(FedProx(), HeteroSelect(), count=10)

    The wrapped strategy must train on all nodes that it is shown: fraction_train 1.0, as by
    default. Its evaluation is on all nodes. Clients answer queries by `answer_query`.

    To weight replies by the selector's scores, as HeteRo-Select's second version does, give the
    innermost strategy weighted_by_key="selection-share"; `reply` on the clients returns it.

    Args:
        strategy: configures and aggregates; wrapped or not.
        selector: chooses the clients.
        count: how many train in a round, at least 1; all if fewer are connected.
        min_available_nodes: how many must be connected before a round begins; None is `count`.
        wait_timeout: seconds to wait for them, above 0, before the run ends with an error.
        query_timeout: seconds to wait for answers to queries, above 0. A later answer counts as
            none.
        trainable: entries of the model that make an update, as for `FedHyper`.

    Raises:
        ValueError: if an argument is out of range, or the wrapped strategy would wait for more
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
        require_whole(call, "count", count, "choose at least one client", 1)
        least = count if min_available_nodes is None else min_available_nodes
        require_whole(call, "min_available_nodes", least, "try 2", 1)
        for name, seconds in (("wait_timeout", wait_timeout), ("query_timeout", query_timeout)):
            require_number(call, name, seconds, "try 600", above=0, finite=False)
        self._selector, self._count, self._trainable = selector, count, trainable
        self._wait_timeout, self._query_timeout = wait_timeout, query_timeout
        self._least = max(least, self._wanted_nodes())
        self._sends_scores = self._weight_key() == SHARE
        rule = f"has no scores to weight replies by, as weighted_by_key={SHARE!r} requires"
        remedy = "use HeteroSelect or HeteroSelectV2, or weight by num-examples"
        fits = not self._sends_scores or hasattr(selector, "scores")
        require(fits, call, "selector", type(selector).__name__, rule, remedy)
        self._entries: list[str] = []
        self._names: dict[int, Name] = {}
        self._waiting: dict[int, Name] = {}  # the partition, which another node still has
        self._probed: list[Name] = []
        self._invited: dict[int, Name] = {}
        self._logged: dict[str, str] = {}

    @property
    def selected(self) -> list[Name]:
        """The clients that were asked to train in the last round, by name, in order."""
        return list(self._invited.values())

    @property
    def probed(self) -> list[Name]:
        """The clients that were asked for their loss in the last round, by name, in order."""
        return list(self._probed)

    def _wanted_nodes(self) -> int:
        """Return how many nodes the wrapped strategies want to see; refuse the impossible."""
        wanted, call = 1, "SelectClients"
        for strategy in chain(self.strategy):
            name, fraction = type(strategy).__name__, getattr(strategy, "fraction_train", 1.0)
            rule = f"has fraction_train={fraction}, and would train only some of the selected"
            remedy = "leave it at 1.0, and choose the number by SelectClients(count=...)"
            require(fraction == 1.0, call, "strategy", name, rule, remedy)
            for least in ("min_train_nodes", "min_available_nodes"):
                number = getattr(strategy, least, 1)
                rule = (
                    f"is less than the {least}={number} of {name}, which would wait for them "
                    f"for ever"
                )
                remedy = (
                    f"lower {least}, or select more; how many must be connected is "
                    f"SelectClients(min_available_nodes=...)"
                )
                require(number <= self._count, call, "count", self._count, rule, remedy)
                wanted = max(wanted, number)
        return wanted

    def _settings(self) -> str:
        return f"{self._count} clients by {type(self._selector).__name__}"

    def _configure(
        self, round_: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._entries = self._model.trainable(self._trainable, "SelectClients")
        node_of = self._online(grid)
        names = sorted(node_of, key=_rank)
        self._probed = self._selector.candidates(names)
        nodes = [node_of[name] for name in self._probed]
        probes = self._probe(round_, arrays, nodes, grid) if nodes else None
        chosen = self._selector.select(round_, names, self._count, probes)
        self._invited = {node_of[name]: name for name in chosen}
        log.info("SelectClients: round %d trains on %s of %d clients, %d were probed",
                 round_, chosen, len(names), len(nodes))  # fmt: skip
        innermost = type(list(chain(self.strategy))[-1]).__name__
        shown = SelectedGrid(grid, list(self._invited), innermost)
        return super()._configure(round_, arrays, config, cast(Grid, shown))

    def _address(self, message: Message) -> None:
        if self._sends_scores:
            scores: dict[Any, float] = getattr(self._selector, "scores", {})
            score = scores[self._invited[message.metadata.dst_node_id]]
            only_config(message)[SHARE] = max(float(score), _MIN_SHARE)

    def _aggregate(self, round_: int, good: list[Message], errors: list[Message]) -> Aggregated:
        good = sorted(good, key=lambda reply: _rank(self._name_of(reply)))
        # Read before aggregating, since some strategies overwrite the replies' arrays.
        reports = self._reports(good, updates=True)
        arrays, metrics = self._wrapped(round_, good, errors)
        self._feed_back(round_, reports)
        if missing := sorted(set(self._invited.values()) - reports.keys(), key=_rank):
            log.warning("SelectClients: round %d has no usable reply of %s; the selector goes "
                        "on without them", round_, missing)  # fmt: skip
        return arrays, metrics

    def _feed_back(self, round_: int, reports: dict[Name, ClientReport]) -> None:
        """Tell the selector; if it refuses, one by one, to pass over only the refused ones."""
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
        end, seen = time.monotonic() + self._wait_timeout, -1
        while len(nodes := list(grid.get_node_ids())) < self._least:
            if time.monotonic() > end:
                raise RuntimeError(
                    f"SelectClients waited {self._wait_timeout:g} s for {self._least} nodes, "
                    f"and {len(nodes)} are connected: start more, raise wait_timeout, or lower "
                    f"min_available_nodes."
                )
            if len(nodes) != seen:
                seen = len(nodes)
                log.info("SelectClients: waiting for nodes, %d of %d", seen, self._least)
            time.sleep(_POLL)
        self._pass_on_names(nodes)
        self._learn_names([node for node in nodes if node not in self._names], nodes, grid)
        return {self._names[node]: node for node in nodes}

    def _pass_on_names(self, online: Sequence[int]) -> None:
        """Name nodes by their partition whose other node is gone.

        Flower shows a node that has died until its heartbeat is overdue, and the same client
        may be back under a new id by then.
        """
        for node, name in [*self._waiting.items()]:
            holders = [one for one, its in self._names.items() if its == name]
            if node in online and not {*holders} & {*online}:
                self._take(node, self._waiting.pop(node))

    def _take(self, node: int, name: Name) -> None:
        """Name a node, in place of one that is gone."""
        self._names = {one: its for one, its in self._names.items() if its != name}
        self._names[node] = name

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
                self._waiting[node] = name
            # A node that comes back with a new id continues its partition's past.
            self._take(node, f"node {node}" if name is None or name in taken else name)
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
        """Return the answers, one a node; log who gave none."""
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
                self._log_once("queries", f"{text}. {advice.QUERY}")
        return list(answers.values())

    def _reports(self, replies: list[Message], updates: bool) -> dict[Name, ClientReport]:
        """Return the replies' reports by name, without those that cannot be used."""
        reports, old = {}, flat(self._arrays, self._entries) if updates else None
        for reply in replies:
            metrics = metrics_of(reply)
            try:
                examples = number_of(metrics, EXAMPLES)
                if not updates:
                    # Replies to training were checked already.
                    check_metrics(metrics, cast(str, first_of(metrics, EXAMPLES)))
                update = None
                if old is not None:
                    new = flat(model_of(reply), self._entries)
                    update = new - old.to(new.dtype)
                reports[self._name_of(reply)] = ClientReport(
                    loss=number_of(metrics, LOSSES),
                    num_examples=examples,
                    duration=metrics.get("duration"),
                    update=update,
                    update_norm=metrics.get("update-norm"),
                    label_counts=metrics.get(LABELS),
                    squared_loss=metrics.get("squared-loss"),
                )
            except ValueError as fault:
                text = f"node {describe(reply)} told the selector nothing: {fault}"
                # What one reply to training lacks, all lack.
                if updates:
                    self._log_once("loss", f"{text}. {advice.LOSS}")
                else:
                    log.warning("%s", text)
        return reports

    def _log_once(self, about: str, text: str) -> None:
        """Log something once a run: with the other advice, or now if that is past."""
        if about in self._logged:
            return
        self._logged[about] = text
        if self._advised:
            log.warning("SelectClients: %s", text)

    def _advice(self, metrics: set[str]) -> Sequence[str]:
        selector = type(self._selector).__name__
        if (loss := first_of(dict.fromkeys(metrics, 0.0), LOSSES)) not in (None, LOSSES[0]):
            log.info("SelectClients: the clients' metric %r is used as %r", loss, LOSSES[0])
        lacking = [n for n in self._selector.uses if n.replace("_", "-") not in metrics]
        if "label_counts" in lacking:
            self._log_once(
                "labels",
                f"the clients send no {LABELS!r}, by which {selector} knows how their data "
                f"differ; without it, that part of its choice is neutral. It tells the server "
                f"what data a client has; diversity='updates' needs none. "
                f"{advice.LABEL_COUNTS}",
            )
        if more := [n.replace("_", "-") for n in lacking if n != "label_counts"]:
            self._log_once(
                "statistics",
                f"the clients do not send {' and '.join(map(repr, more))}, which {selector} "
                f"uses; without it, that part of its choice is neutral. {advice.TRAIN}",
            )
        return list(self._logged.values())

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


def _rank(name: Name) -> tuple[int, Name]:
    """Return the sort key of a name: partitions by number, then nodes."""
    return (0, name) if isinstance(name, int) else (1, name)
