"""A Flower grid that shows the selected nodes and no others.

Flower's strategies sample their nodes themselves, from the grid that they are given. On a grid
of the selected nodes that sample is the selection, so no strategy has to be written again. They
also wait, without a limit, until the grid has as many nodes as they want; on this grid more
will never come, so asking again and again is an error here.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from flwr.serverapp import Grid

# FedAvg asks twice; a strategy that waits asks once a second.
_MAX_QUESTIONS = 10


class SelectedGrid:
    """Another grid with only some of its nodes; `strategy` is who sees it, for the error."""

    def __init__(self, grid: Grid, node_ids: Sequence[int], strategy: str) -> None:
        self._grid, self._node_ids, self._strategy = grid, list(node_ids), strategy
        self._questions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def get_node_ids(self) -> Iterable[int]:
        """Return the selected nodes; an error for a strategy that must be waiting for more."""
        self._questions += 1
        if self._questions > _MAX_QUESTIONS:
            raise RuntimeError(
                f"{self._strategy} waits for more nodes than the {len(self._node_ids)} that "
                f"SelectClients chose, and would wait for ever. Set its min_train_nodes and "
                f"min_available_nodes to at most `count`, and its fraction_train to 1.0; for "
                f"how many must be connected, use SelectClients(min_available_nodes=...)."
            )
        return list(self._node_ids)

    def get_nodes(self) -> Iterable[Any]:
        """Return Flower's information on the selected nodes."""
        shown = set(self.get_node_ids())
        return [node for node in self._grid.get_nodes() if node.node_id in shown]
