"""What the second HeteRo-Select does with a client's score once it is selected; all optional.

The score S_k that drew a client also sets how much of its update it sends, and what the update
weighs:

    theta_1  = 1, and then, with u = t - 1 and U = T - 1, the round's mean ratio is
    theta_t  = max(theta (1 + 0.4 cos(pi (u - 1) / (U - 1))), 0.08)
    theta_k  = clip(min(theta_t S_k / mean S, ceiling_k), 0.005, 1)
    v        = delta_k + e_k;  sent = the theta_k N entries of v with the largest v_i^2, or
               v_i^2 / |H_ii| where a curvature is given;  e_k <- beta_t (v - sent)
    beta_t   = 0.85 + 0.12 (1 - theta_t)
    weight_k = S_k / sum of S

`ErrorFeedback` stands at the client, or holds all clients of a simulation. The authors' own
ablations show the curvature, the score's weights and its ratios to be no better than magnitude,
equal weights and equal ratios; their traffic leaves out the positions of the entries sent,
which `compressed_bytes` counts. Nothing here communicates.

Source: HeteRo-Select (arXiv 2508.06692, second version), its authors' code. Error feedback:
Seide et al., Interspeech 2014; Stich et al., "Sparsified SGD with Memory", NeurIPS 2018.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import require
from ..state import Entries
from .checks import read_ids, require_savable
from .selection.report import LARGEST
from .vectors import flat

# The authors': swing of the budget around its mean, and what it never falls below.
_SWING, _LEAST_BUDGET = 0.4, 0.08
_LEAST_RATIO = 0.005
_LEAST_CURVATURE = 1e-6
_TINY = 1e-8


def round_budget(number: int, rounds: int, average: float = 0.2) -> float:
    """Return theta_t, the mean share of entries that a round's clients send.

    Args:
        number: t, the round, from 1; after T the budget stays as in round T.
        rounds: T >= 1.
        average: theta in (0, 1], the mean over rounds; the authors' 0.2.

    Returns:
        1 in the first round, then from 1.4 theta down to 0.6 theta along a half cosine.

    Raises:
        ValueError: if an argument is out of range.
    """
    for argument, value in {"number": number, "rounds": rounds}.items():
        require(
            value >= 1, "round_budget", argument, value, "must be at least 1", "count from 1"
        )
    _require_share("round_budget", "average", average)
    if number == 1:
        return 1.0
    done = (min(number, rounds) - 2) / max(rounds - 2, 1)
    theta = average * (1 + _SWING * math.cos(math.pi * max(done, 0.0)))
    return min(max(theta, _LEAST_BUDGET), 1.0)


def error_decay(theta: float) -> float:
    """Return beta_t, the share of what was not sent that a client keeps for the next time.

    Args:
        theta: the round's budget, in (0, 1].

    Raises:
        ValueError: if `theta` is out of range.
    """
    _require_share("error_decay", "theta", theta)
    return 0.85 + 0.12 * (1 - theta)


def client_ratios(
    scores: Mapping[Any, float],
    theta: float,
    ceilings: Mapping[Any, float] | None = None,
) -> dict[Any, float]:
    """Return theta_k, the share of entries that each client sends.

    Args:
        scores: S_k >= 0 of the round's clients, as in `HeteroSelectV2.scores`. If all are 0,
            all have the ratio theta.
        theta: the round's budget, in (0, 1].
        ceilings: the largest ratio that a client's link can take; see `link_ceiling`. Those
            not named have none.

    Raises:
        ValueError: if an argument is out of range.
    """
    _require_scores("client_ratios", scores)
    _require_share("client_ratios", "theta", theta)
    mean = sum(scores.values()) / max(len(scores), 1)
    ratios = {}
    for client, score in scores.items():
        wanted = theta * score / mean if mean > _TINY else theta
        ceiling = 1.0 if ceilings is None else ceilings.get(client, 1.0)
        ratios[client] = min(max(min(wanted, ceiling), _LEAST_RATIO), 1.0)
    return ratios


def link_ceiling(bits_per_second: float, seconds: float, model_bits: float) -> float:
    """Return the share of a model that a link carries in a given time, at most 1.

    Args:
        bits_per_second: B_k >= 0.
        seconds: T_bud >= 0; the authors take the time in which the mean client trains and a
            mean link carries the mean budget.
        model_bits: R > 0, the bits of an update that is not compressed.

    Raises:
        ValueError: if an argument is out of range.
    """
    for argument, value in {"bits_per_second": bits_per_second, "seconds": seconds}.items():
        require(value >= 0, "link_ceiling", argument, value, "must be at least 0", "measure it")
    require(
        model_bits > 0, "link_ceiling", "model_bits", model_bits, "must be above 0", "count it"
    )
    return min(bits_per_second * seconds / model_bits, 1.0)


def score_weights(scores: Mapping[Any, float], floor: float = 0.0) -> dict[Any, float]:
    """Return each client's weight in the mean of updates, S_k / sum of S.

    Args:
        scores: S_k >= 0 of the clients whose update came, as in `HeteroSelectV2.scores`.
        floor: scores below are lifted to it, >= 0. The authors' 0 gives the client with the
            lowest score of all no weight, though it trained.

    Returns:
        Weights that sum to 1, equal ones if all scores are 0.

    Raises:
        ValueError: if an argument is out of range.
    """
    _require_scores("score_weights", scores)
    _require_scores("score_weights", {"floor": floor})
    lifted = {client: max(score, floor) for client, score in scores.items()}
    total = math.fsum(lifted.values())
    if total < _TINY:
        return dict.fromkeys(scores, 1 / max(len(scores), 1))
    return {client: score / total for client, score in lifted.items()}


def compressed_bytes(kept: int, total: int, value_bytes: int = 4) -> int:
    """Return what an update takes on the wire, positions included, without headers.

    The least of three plain forms: every value; the values kept with a position of 4 bytes (8
    beyond 2^32 entries) each; the values kept with one bit for each entry.

    Args:
        kept: entries sent, 0 <= kept <= total.
        total: N, entries in all.
        value_bytes: bytes of one value; 4 for float32.

    Raises:
        ValueError: if `kept` is out of range.
    """
    inside = 0 <= kept <= total
    rule = f"must lie in [0, total={total}]"
    require(inside, "compressed_bytes", "kept", kept, rule, "count the entries sent")
    position = 4 if total <= 1 << 32 else 8
    values = kept * value_bytes
    return min(total * value_bytes, values + kept * position, values + math.ceil(total / 8))


@dataclass(frozen=True)
class SparseUpdate:
    """The entries of an update that are sent.

    Attributes:
        indices: [kept] int64, ascending.
        values: [kept].
        length: N, the entries of the whole update.
    """

    indices: torch.Tensor
    values: torch.Tensor
    length: int

    def dense(self) -> torch.Tensor:
        """Return the update as [N], 0 where nothing was sent."""
        whole = self.values.new_zeros(self.length)
        whole[self.indices] = self.values
        return whole

    @property
    def bytes(self) -> int:
        """What it takes on the wire, positions included."""
        return compressed_bytes(len(self.values), self.length, self.values.element_size())


class ErrorFeedback:
    """Top-k compression that remembers what it left out, for each client.

    What was left out is added to the client's next update, so that it is delayed and not
    lost. It takes N numbers for each client that ever sent.
    """

    def __init__(self) -> None:
        self._errors: dict[Any, torch.Tensor] = {}

    def compress(
        self,
        client: Hashable,
        delta: Any,
        ratio: float,
        decay: float,
        curvature: Any = None,
    ) -> SparseUpdate:
        """Return the largest entries of `delta` plus what the client has not sent yet.

        Args:
            client: its id.
            delta: new weights minus global weights: flat tensor or array of floats.
            ratio: theta_k in (0, 1]: max(1, int(ratio N)) entries are sent.
            decay: beta_t in [0, 1], the share kept of what is left out; 0 forgets it.
            curvature: H_ii, as long as `delta`; NaN for entries where it was not estimated,
                which compete by v_i^2 alone. The two scales do not compare, as in the
                authors' code: estimate all entries or none.

        Raises:
            ValueError: if an argument is out of range, `delta` is not finite, or not as long
                as the client's last one; nothing is changed then.
        """
        call = "ErrorFeedback.compress"
        _require_share(call, "ratio", ratio)
        require(0 <= decay <= 1, call, "decay", decay, "must lie in [0, 1]", "1 keeps all")
        whole = flat(delta, call, "delta").clone()
        error = self._errors.get(client)
        if error is not None:
            _require_length(call, "delta", whole, len(error))
            whole += error.to(whole.device)
        require(
            bool(whole.isfinite().all()),
            call,
            "delta",
            client,
            "holds entries that are not finite",
            "leave a client that diverged out of the round; nothing was changed",
        )
        # In float64: squares of float32 end at 1e19, and vanish below 1e-23.
        rank = whole.double().square()
        if curvature is not None:
            h = flat(curvature, call, "curvature").to(rank.device)
            _require_length(call, "curvature", h, len(rank))
            rank = torch.where(h.isnan(), rank, rank / h.abs().clamp(min=_LEAST_CURVATURE))
        kept = max(1, int(ratio * len(whole)))
        indices = rank.topk(kept).indices.sort().values
        sent = SparseUpdate(indices, whole[indices], len(whole))
        whole[indices] = 0
        self._errors[client] = whole.mul_(decay)
        return sent

    def state_dict(self) -> dict[str, Any]:
        """Return the ids and what each has not sent.

        Raises:
            ValueError: if an id is neither an int nor a string.
        """
        for client in self._errors:
            require_savable("ErrorFeedback.state_dict", client)
        errors = [error.clone() for error in self._errors.values()]
        lengths = [len(error) for error in errors]
        return {"ids": list(self._errors), "errors": errors, "lengths": lengths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of `state_dict`.

        Args:
            state: the state. `lengths`, by which a damaged one is known, may be missing, as
                older states are without.

        Raises:
            ValueError: if it lacks an entry, or has not one tensor for each id; nothing is
                changed then.
        """
        entries = Entries(state, "ErrorFeedback")
        ids = read_ids(entries, "ids")
        lengths: list[int] | list[None] = [None] * len(ids)
        if entries.has("lengths"):
            lengths = entries.integers("lengths", len(ids), low=1)
        errors = {f"errors.{i}": e for i, e in enumerate(entries.items("errors", len(ids)))}
        each = Entries(errors, "ErrorFeedback")
        read = [each.tensor(f"errors.{i}", (n,)) for i, n in enumerate(lengths)]
        self._errors = {i: error.clone() for i, error in zip(ids, read, strict=True)}


def _require_share(call: str, argument: str, value: float) -> None:
    require(0 < value <= 1, call, argument, value, "must lie in (0, 1]", "1 sends everything")


def _require_scores(call: str, scores: Mapping[Any, float]) -> None:
    for client, score in scores.items():
        fine = 0 <= score <= LARGEST
        rule = f"of {client!r} must be finite and at least 0, at most {LARGEST:g}"
        require(fine, call, "scores", score, rule, "rescale scores to [0, 1]")


def _require_length(call: str, argument: str, vector: torch.Tensor, length: int) -> None:
    rule = f"must have {length} entries, as before"
    remedy = "flatten the same parameters in the same order in every round"
    require(len(vector) == length, call, argument, len(vector), rule, remedy)
