"""HeteRo-Select, second version: one score from value, diversity, fairness and staleness.

    V'_k  = minmax(L_k)                      the loss of every client, probed in every round
    D_k   = clip(1 - cos(d_k, g_bar), 0, 1)  its last update; 1/2 if none
    F'_k  = clip(1 - c_k / mean c, -1, 1)    c_k: times invited
    St'_k = minmax(log(1 + t - l_k))         l_k: last invited
    S_k   = minmax(lamV V' + lamD D + lamF F' + lamSt St')

drawn as in `scored`. In the method S also sets how much a client compresses and what it weighs:
see `hdet.federated.compression`.

(The authors' St' has a factor gamma inside, and is not rescaled while all are equally stale:
the one rescaling takes out the factor, the other the constant.)

The paper does not count the cost of the probe, which sends the model to everybody in every
round. Its authors' logs show a selection close to uniform, and no comparison with random
selection.

Source: HeteRo-Select (arXiv 2508.06692, second version) and its authors' code.
"""

from typing import Any

from torch import Tensor

from ...state import Entries
from . import terms
from .memory import UpdateMemory
from .registry import Registry
from .report import ClientReport
from .scored import ScoredSelector
from .selector import Round


class HeteroSelectV2(ScoredSelector):
    """Draw from the softmax of the second version's score. Probes everybody.

    Report each client's `update` as it was sent, after compression. Give a round's replies to
    `feedback` in one call: each call moves the running mean once.

    Args:
        w_value: lamV >= 0.
        w_diversity: lamD >= 0.
        w_fairness: lamF >= 0.
        w_staleness: lamSt >= 0.
        temperature: tau_0 > 0.
        rounds: T, the rounds over which the temperature falls to half; then it stays.
        seed: the run's seed.

    All defaults are the authors'.

    Raises:
        ValueError: if an argument is out of range.
    """

    # As the authors' code: the first 8 mini-batches of 32.
    probe_batches = 8

    def __init__(
        self,
        *,
        w_value: float = 1.0,
        w_diversity: float = 0.3,
        w_fairness: float = 0.2,
        w_staleness: float = 0.2,
        temperature: float = 1.0,
        rounds: int = 100,
        seed: int = 0,
    ) -> None:
        weights = {
            "w_value": w_value,
            "w_diversity": w_diversity,
            "w_fairness": w_fairness,
            "w_staleness": w_staleness,
        }
        super().__init__("all", temperature, rounds, seed, weights)
        self._updates = UpdateMemory("HeteroSelectV2")

    def _score(self, now: Round) -> Tensor:
        w, known, rows = self._weights, self._registry, now.rows
        age = terms.log_age(now.number, known.last_invited[rows].double())
        return terms.min_max(
            w["w_value"] * terms.value(self._losses(now))
            + w["w_diversity"] * self._updates.diversity(rows).nan_to_num(0.5)
            + w["w_fairness"] * terms.fairness(known.invitations[rows].double())
            + w["w_staleness"] * terms.min_max(age)
        )

    def _learn(self, number: int, rows: list[int], reports: list[ClientReport]) -> None:
        # A late reply belongs to a round whose scores are gone: it is kept, and moves no mean.
        current = self._scores if number == self._last_round else {}
        scores = {self._registry.row_of[client]: score for client, score in current.items()}
        if scores and sum(scores.get(row, 0.0) for row in rows) < terms.EPSILON:
            scores = dict.fromkeys(rows, 1.0)
        self._updates.learn(rows, reports, scores)

    def _own_state(self) -> dict[str, Any]:
        return {**super()._own_state(), "updates": self._updates.state_dict()}

    def _read_own_state(
        self, entries: Entries, registry: Registry, last_round: int
    ) -> dict[str, Any]:
        made = super()._read_own_state(entries, registry, last_round)
        for score in made["_scores"].values():
            if not 0 <= score <= 1:
                entries.refuse("scores", score, "must have scores from 0 to 1")
        updates = self._updates.read(entries.entries("updates"), len(registry.row_of))
        return made | {"_updates": updates}
