"""Power-of-Choice: of a few clients drawn by size, those with the highest loss.

A candidate set A of d clients is drawn without replacement with probabilities proportional to
their examples n_k; the m of them whose loss under the global model is largest are chosen.
d = m is a plain draw by size; the larger d, the greedier. Three variants differ in the loss:

    pow-d    measured now, on all of the client's data
    cpow-d   measured now, on one mini-batch
    rpow-d   the one of its last participation; nobody is probed

Source: Cho, Wang, Joshi, "Towards Understanding Biased Client Selection in Federated Learning",
AISTATS 2022 (arXiv 2010.01243), Algorithm 1 and section 4.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ...errors import require
from .draws import draw, keys
from .report import ClientReport
from .selector import Round, Selector


class PowerOfChoice(Selector):
    """Choose the clients with the highest loss among d candidates.

    Losses are only compared, so their sign and scale do not matter. In rpow-d a client never
    invited has an infinite loss and so comes first, and one whose last invitation went
    unanswered the mean loss. Equal losses go by the order of the draw.

    Args:
        candidates: d >= 1, at least as many as are to be chosen. The paper's d is 2 to 20 times
            that; twice is a fair start, since late in training a greedy choice starves easy
            clients.
        variant: "pow-d", "cpow-d" or "rpow-d".
        sizes: n_k of the clients, where known beforehand; the others' are taken from their
            reports, and until then for the mean of the known.
        seed: the run's seed.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        candidates: int,
        variant: str = "pow-d",
        sizes: Mapping[Any, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed, sizes)
        require(
            isinstance(candidates, int) and candidates >= 1,
            "PowerOfChoice",
            "candidates",
            candidates,
            "must be a whole number of at least 1",
            "twice the clients of a round is a fair start",
        )
        require(
            variant in ("pow-d", "cpow-d", "rpow-d"),
            "PowerOfChoice",
            "variant",
            variant,
            'must be "pow-d", "cpow-d" or "rpow-d"',
            '"rpow-d" needs no probe',
        )
        self._size, self._stale = candidates, variant == "rpow-d"
        self.probe_batches = 1 if variant == "cpow-d" else None

    def _ask(self, rows: torch.Tensor, number: int) -> torch.Tensor | None:
        if self._stale:
            return rows[:0]
        return self._draw_by_size(rows, min(self._size, len(rows)), number)

    def _check_select(self, count: int, probes: Mapping[Any, ClientReport] | None) -> None:
        require(
            count <= self._size,
            "PowerOfChoice.select",
            "count",
            count,
            f"must be at most candidates={self._size}",
            f"construct with candidates={2 * count}, say",
        )
        require(
            self._stale or probes is not None,
            "PowerOfChoice.select",
            "probes",
            probes,
            "must hold the answers of candidates(clients)",
            'probe them, give {} if nobody answered, or take variant="rpow-d"',
        )

    def _choose(self, now: Round) -> torch.Tensor:
        rows, known = now.rows, self._registry
        if self._stale:
            among = self._draw_by_size(rows, min(self._size, len(rows)), now.number)
        else:
            among = now.probed.nonzero().squeeze(1)
            source = self._generator(now.number, "order")
            # In the order of a draw by size, which ties then go by.
            among = among[keys(self._log_sizes(rows[among]), source).argsort(descending=True)]
        losses = known.believed(known.loss[rows], rows)[among]
        best = among[losses.argsort(descending=True, stable=True)][: now.count]
        if len(best) == now.count:
            return best
        return torch.cat([best, self._others(now, among, now.count - len(best))])

    def _others(self, now: Round, among: torch.Tensor, count: int) -> torch.Tensor:
        """Return clients drawn by size from outside `among`; the silent ones last."""
        outside = torch.ones(len(now.rows), dtype=torch.bool)
        outside[among] = False
        left = outside.nonzero().squeeze(1)
        silent = None if now.silent is None else now.silent[left]
        source = self._generator(now.number, "others")
        return left[draw(self._log_sizes(now.rows[left]), count, source, silent)]

    def _draw_by_size(self, rows: torch.Tensor, count: int, number: int) -> torch.Tensor:
        return draw(self._log_sizes(rows), count, self._generator(number, "candidates"))

    def _log_sizes(self, rows: torch.Tensor) -> torch.Tensor:
        return self._registry.data_sizes(rows).log()
