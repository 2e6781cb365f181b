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
from torch import Tensor

from ...errors import require, require_choice, require_whole
from .draws import draw, keys
from .report import ClientReport
from .selector import Round, Selector


class PowerOfChoice(Selector):
    """Choose the clients with the highest loss among d candidates.

    Losses are only compared, so their sign and scale do not matter. In rpow-d a client never
    invited has an infinite loss and so comes first, and one that left its last invitation
    unanswered has the mean loss. Equal losses go by the order of the draw.

    Args:
        candidates: d >= 1, at least as many as are to be chosen. The paper's d is 2 to 20 times
            that; start with twice, since late in training a greedy choice starves easy clients.
        variant: "pow-d", "cpow-d" or "rpow-d".
        sizes: n_k of the clients, if known beforehand; the others' are taken from their
            reports, and until then are the mean of the known.
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
        name, remedy = "PowerOfChoice", "start with twice the clients of a round"
        require_whole(name, "candidates", candidates, remedy, 1)
        variants = ("pow-d", "cpow-d", "rpow-d")
        require_choice(name, "variant", variant, variants, '"rpow-d" needs no probe')
        self._size, self._stale = candidates, variant == "rpow-d"
        self.probe_batches = 1 if variant == "cpow-d" else None

    def _ask(self, rows: Tensor, number: int) -> Tensor | None:
        return rows[:0] if self._stale else self._candidates(rows, number)

    def _check_select(self, count: int, probes: Mapping[Any, ClientReport] | None) -> None:
        rule = f"must be at most candidates={self._size}"
        remedy = f"construct with candidates={2 * count}, say"
        require(count <= self._size, "PowerOfChoice.select", "count", count, rule, remedy)
        if not self._stale:
            remedy = 'probe them, give {} if nobody answered, or use variant="rpow-d"'
            self._require_probes(probes, remedy)

    def _choose(self, now: Round) -> Tensor:
        rows, known = now.rows, self._registry
        if self._stale:
            among = self._candidates(rows, now.number)
        else:
            among = now.probed.nonzero().squeeze(1)
            source = self._generator(now.number, "order")
            # In the order of a draw by size, which decides between equal losses.
            among = among[keys(self._log_sizes(rows[among]), source).argsort(descending=True)]
        losses = known.imputed(known.loss[rows], rows)[among]
        best = among[losses.argsort(descending=True, stable=True)][: now.count]
        if len(best) == now.count:
            return best
        # Others are drawn by size, the silent ones last.
        outside = torch.ones(len(rows), dtype=torch.bool)
        outside[among] = False
        left = outside.nonzero().squeeze(1)
        silent = None if now.silent is None else now.silent[left]
        source, missing = self._generator(now.number, "others"), now.count - len(best)
        more = left[draw(self._log_sizes(rows[left]), missing, source, silent)]
        return torch.cat([best, more])

    def _candidates(self, rows: Tensor, number: int) -> Tensor:
        source, size = self._generator(number, "candidates"), min(self._size, len(rows))
        return draw(self._log_sizes(rows), size, source)

    def _log_sizes(self, rows: Tensor) -> Tensor:
        return self._registry.data_sizes(rows).log()
