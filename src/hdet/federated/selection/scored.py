"""Selection by a draw from the softmax of the clients' scores.

    P(k) = softmax(S_k / tau(t)),   tau(t) = tau_0 (1 - 0.5 min(t / T, 1))

and `count` clients drawn one after another without replacement, in both versions of
HeteRo-Select. With S in [0, 1] and tau >= 1/2 no client is more than e^2 times as likely as any
other, so such a draw stays close to a uniform one; a lower tau_0 makes it sharper.

Source: HeteRo-Select (arXiv 2508.06692), second version's code.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import is_whole, require, require_number
from ...state import Entries
from . import terms
from .draws import draw, draw_uniform
from .registry import Registry
from .report import ClientReport
from .selector import Round, Selector


class ScoredSelector(Selector):
    """Who is probed, the score's weights, and the draw, for both HeteRo-Selects."""

    def __init__(
        self,
        probe: str | int,
        temperature: float,
        rounds: int,
        seed: int,
        weights: Mapping[str, float],
    ) -> None:
        super().__init__(seed)
        name = type(self).__name__
        fits = probe in ("all", "stale") or (is_whole(probe) and probe >= 1)
        rule = 'must be "all", "stale" or a whole number of at least 1'
        remedy = '"stale" asks nobody, "all" everybody in every round'
        require(fits, name, "probe", probe, rule, remedy)
        remedy = "the lower it is, the likelier the highest scores are drawn"
        require_number(name, "temperature", temperature, remedy, above=0)
        require_number(name, "rounds", rounds, "give the rounds of the run", low=1)
        for argument, weight in weights.items():
            require_number(name, argument, weight, "0 turns it off", low=0)
        self._probe, self._weights = probe, dict(weights)
        self._temperature, self._rounds = float(temperature), rounds
        self._scores: dict[Any, float] = {}

    @property
    def scores(self) -> dict[Any, float]:
        """S of each client chosen in the last round, for weights and compression ratios."""
        return dict(self._scores)

    @abstractmethod
    def _score(self, now: Round) -> Tensor:
        """Return S: [K] float64, finite."""

    def _choose(self, now: Round) -> Tensor:
        scores = self._score(now)
        tau = terms.temperature(now.number, self._rounds, self._temperature)
        positions = self._draw(now, scores, tau)
        ids = self._registry.ids_at(positions)
        # A second selection of one round adds to the first.
        before = self._scores if now.number == self._last_round else {}
        self._scores = {**before, **dict(zip(ids, scores[positions].tolist(), strict=True))}
        return positions

    def _draw(self, now: Round, scores: Tensor, tau: float) -> Tensor:
        """Return the positions drawn from softmax(scores / tau), in the order drawn."""
        source = self._generator(now.number, "draw")
        return draw(scores / tau, now.count, source, now.silent)

    def _losses(self, now: Round) -> Tensor:
        """Return each client's loss, imputed where unknown; +inf for one never heard of."""
        return self._registry.imputed(self._registry.loss[now.rows], now.rows)

    def _ask(self, rows: Tensor, number: int) -> Tensor | None:
        if self._probe == "all":
            return None
        if isinstance(self._probe, str):
            return rows[:0]
        size = min(self._probe, len(rows))
        return draw_uniform(len(rows), size, self._generator(number, "probe"))

    def _check_select(self, count: int, probes: Mapping[Any, ClientReport] | None) -> None:
        if self._probe != "stale":
            self._require_probes(probes, "probe them, or give {} if nobody answered")

    def _own_state(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def _read_own_state(
        self, entries: Entries, registry: Registry, last_round: int
    ) -> dict[str, Any]:
        scores = entries.raw("scores")
        # Ids may be ints, which `Entries` does not take for names.
        if not isinstance(scores, Mapping) or not scores.keys() <= registry.row_of.keys():
            entries.refuse("scores", scores, "must have scores of known clients")
        for score in scores.values():
            if type(score) is not float or not math.isfinite(score):
                entries.refuse("scores", score, "must have scores that are finite")
        return {"_scores": dict(scores)}
