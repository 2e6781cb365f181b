"""A Flower grid within this process: messages are handed to the client app directly.

Everything that depends on Flower's internals is here.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from hdet.seeding import generator

FIRST_NODE_ID = 10_000


def node_id(partition: int, salt: int = 0) -> int:
    """Return a node id like Flower's: different in every run, in no order."""
    source = generator(salt, "node id", partition)
    return FIRST_NODE_ID + source.initial_seed() % 2**50


class LocalGrid(Grid):
    """Nodes that answer at once.

    Args:
        app: what runs on every node.
        nodes: partition of each node id; -1 for a node that has none.
        salt: of the order of replies; 0 is the order of partitions.
    """

    def __init__(self, app: ClientApp, nodes: Mapping[int, int], salt: int = 0) -> None:
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        self._app, self._salt = app, salt
        self.partitions = dict(nodes)
        self.contexts = {
            node: Context(1, node, _node_config(partition), RecordDict(), {})
            for node, partition in nodes.items()
        }
        self.offline: set[int] = set()  # no longer there: they are not shown
        self.silent: set[int] = set()  # shown, and never answer
        self.sent: list[Message] = []
        self.calls = 0

    def trained(self) -> list[list[int]]:
        """Return the partitions that were asked to train, sorted, for each round."""
        rounds: dict[Any, list[int]] = {}
        for message in self.sent:
            if message.metadata.message_type == "train":
                at = message.content.config_records["config"]["server-round"]
                partition = self.partitions[message.metadata.dst_node_id]
                rounds.setdefault(at, []).append(partition)
        return [sorted(partitions) for partitions in rounds.values()]

    def of_type(self, message_type: str) -> list[Message]:
        return [m for m in self.sent if m.metadata.message_type == message_type]

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.contexts if node not in self.offline]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        self.calls += 1
        self.sent.extend(messages)
        replies = [
            self._reply(m) for m in messages if m.metadata.dst_node_id not in self.silent
        ]
        return sorted(replies, key=lambda reply: self._turn(reply.metadata.src_node_id))

    def _turn(self, node: int) -> int:
        partition = self.partitions[node]
        if self._salt == 0:
            return partition
        return generator(self._salt, "turn", partition).initial_seed()

    def _reply(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = "1"
        node = message.metadata.dst_node_id
        # As over a wire: what a client does to a record is not seen by the server.
        content = RecordDict({key: record.copy() for key, record in message.content.items()})
        received = Message(content=content, metadata=message.metadata)  # pyright: ignore[reportCallIssue]
        try:
            return self._app(received, self.contexts[node])
        except Exception as error:
            return Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message)

    # What no strategy here uses.

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args, **kwargs) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


def _node_config(partition: int) -> dict:
    return {} if partition < 0 else {"partition-id": partition}
