"""A Flower grid that shows the selected nodes and no others.

The idea: Flower's strategies sample their nodes themselves, from the grid that they are given.
On a grid of the selected nodes that sample is the selection, so no strategy has to be written
again. They also wait, without an end, until the grid has as many nodes as they want; on this
grid more will never come, so asking again and again is an error here.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

if TYPE_CHECKING:  # named by Grid's methods, and not public
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run

# FedAvg asks twice; a strategy that waits asks once a second.
_QUESTIONS = 10


class SelectedGrid(Grid):
    """Another grid, of which only some nodes are seen.

    Args:
        grid: the grid that talks.
        node_ids: the nodes to show, in their order.
        waiting: who asks, for the error.
    """

    def __init__(self, grid: Grid, node_ids: Sequence[int], waiting: str) -> None:
        self._grid, self._node_ids, self._waiting = grid, list(node_ids), waiting
        self._asked = 0

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the selected nodes.

        Raises:
            RuntimeError: if asked so often that somebody must be waiting for more of them.
        """
        self._asked += 1
        if self._asked > _QUESTIONS:
            raise RuntimeError(
                f"{self._waiting} waits for more nodes than the {len(self._node_ids)} that "
                f"SelectClients chose, and would wait for ever. Set its min_train_nodes and "
                f"min_available_nodes to at most `count`, and its fraction_train to 1.0; for "
                f"how many must be connected, use SelectClients(min_available_nodes=...)."
            )
        return list(self._node_ids)

    def get_nodes(self) -> Iterable["NodeInfo"]:
        """Return what is known of the selected nodes."""
        shown = set(self.get_node_ids())
        return [node for node in self._grid.get_nodes() if node.node_id in shown]

    def set_run(self, run: "Run") -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> "Run":
        """The grid's run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)
