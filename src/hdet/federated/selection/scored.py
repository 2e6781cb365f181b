"""Selection by a draw from the softmax of the clients' scores.

    P(k) = softmax(S_k / tau(t)),   tau(t) = tau_0 (1 - 0.5 min(t / T, 1))

and `count` clients drawn one after another without replacement: what both versions of
HeteRo-Select share. With S in [0, 1] and tau >= 1/2 no client is more than e^2 times as likely
as any other, so such a draw stays close to a uniform one; a lower tau_0 makes it sharper.

Source: HeteRo-Select (arXiv 2508.06692), second version's code.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from ...errors import require
from ...state import Entries
from .draws import draw
from .registry import Registry
from .report import ClientReport
from .selector import Round, Selector
from .terms import temperature


class ScoredSelector(Selector):
    """What the two HeteRo-Selects share: who is probed, and the draw."""

    def __init__(self, probe: str | int, temperature: float, rounds: int, seed: int) -> None:
        super().__init__(seed)
        name = type(self).__name__
        whole = isinstance(probe, int) and not isinstance(probe, bool) and probe >= 1
        require(
            whole or probe in ("all", "stale"),
            name,
            "probe",
            probe,
            'must be "all", "stale" or a whole number of at least 1',
            '"stale" asks nobody, "all" everybody in every round',
        )
        require(
            0 < temperature < float("inf"),
            name,
            "temperature",
            temperature,
            "must be finite and above 0",
            "the lower, the surer the highest scores are drawn",
        )
        require(rounds >= 1, name, "rounds", rounds, "must be at least 1", "give the run's T")
        self._probe = probe
        self._temperature, self._rounds = float(temperature), rounds
        self._scores: dict[Any, float] = {}

    @property
    def scores(self) -> dict[Any, float]:
        """S of each client chosen in the last round; what weights and ratios are made of."""
        return dict(self._scores)

    @abstractmethod
    def _score(self, now: Round) -> torch.Tensor:
        """Return S: [K] float64, finite."""

    def _choose(self, now: Round) -> torch.Tensor:
        scores = self._score(now)
        tau = temperature(now.number, self._rounds, self._temperature)
        positions = self._draw(now, scores, tau)
        ids = self._registry.listed(positions)
        # A second selection of one round adds to the first.
        before = self._scores if now.number == self._last_round else {}
        self._scores = {**before, **dict(zip(ids, scores[positions].tolist(), strict=True))}
        return positions

    def _draw(self, now: Round, scores: torch.Tensor, tau: float) -> torch.Tensor:
        """Return the positions drawn from softmax(scores / tau), in the order drawn."""
        source = self._generator(now.number, "draw")
        return draw(scores / tau, now.count, source, now.silent)

    def _losses(self, now: Round) -> torch.Tensor:
        """Return what each client's loss is taken to be; +inf for one never heard of."""
        return self._registry.believed(self._registry.loss[now.rows], now.rows)

    def _ask(self, rows: torch.Tensor, number: int) -> torch.Tensor | None:
        if self._probe == "all":
            return None
        if isinstance(self._probe, str):
            return rows[:0]
        alike = torch.zeros(len(rows), dtype=torch.float64)
        size = min(self._probe, len(rows))
        return draw(alike, size, self._generator(number, "probe"))

    def _check_select(self, count: int, probes: Mapping[Any, ClientReport] | None) -> None:
        require(
            self._probe == "stale" or probes is not None,
            f"{type(self).__name__}.select",
            "probes",
            probes,
            "must hold the answers of candidates(clients)",
            "probe them, or give {} if nobody answered",
        )

    def _own_state(self) -> dict[str, Any]:
        return {"scores": self.scores}

    def _read_own_state(
        self, entries: Entries, registry: Registry, last_round: int
    ) -> dict[str, Any]:
        scores = entries.raw("scores")
        # Ids may be ints, which are no names of entries.
        if not isinstance(scores, Mapping) or not scores.keys() <= registry.row_of.keys():
            entries.refuse("scores", scores, "must have scores of clients that are there")
        for score in scores.values():
            if type(score) is not float or not math.isfinite(score):
                entries.refuse("scores", score, "must have scores that are finite")
        return {"_scores": dict(scores)}
