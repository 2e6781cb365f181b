"""HeteRo-Select's second version after the selection: compression and weights by score.

The score S_k that drew a client also sets how much of its update it sends, and what the update
weighs. With u = t - 1 and U = T - 1:

    theta_t  = max(theta (1 + 0.4 cos(pi (u - 1) / (U - 1))), 0.08), and theta_1 = 1
    theta_k  = clip(min(theta_t S_k / mean S, ceiling_k), 0.005, 1)
    v        = delta_k + e_k;  sent = the theta_k N entries of v with the largest v_i^2, or
               v_i^2 / |H_ii| where a curvature is given;  e_k <- beta_t (v - sent)
    beta_t   = 0.85 + 0.12 (1 - theta_t)
    weight_k = S_k / sum of S

`ErrorFeedback` runs on the client, or holds all clients of a simulation. All of it is optional:
the authors' own ablations show the curvature, the weights and the ratios to be no better than
magnitude, equal weights and equal ratios. Their traffic leaves out the positions of the entries
sent, which `compressed_bytes` counts. Nothing here communicates.

Source: HeteRo-Select (arXiv 2508.06692, second version), its authors' code. Error feedback:
Seide et al., Interspeech 2014; Stich et al., "Sparsified SGD with Memory", NeurIPS 2018.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import require, require_number, require_whole
from ..state import Entries
from .selection.registry import read_ids, require_savable
from .selection.report import LARGEST
from .vectors import flat, require_length

# The authors': amplitude of the budget around its mean, and its lower bounds.
_AMPLITUDE, _MIN_BUDGET, _MIN_RATIO = 0.4, 0.08, 0.005
_MIN_CURVATURE = 1e-6
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
    require_whole("round_budget", "number", number, "count rounds from 1", 1)
    require_whole("round_budget", "rounds", rounds, "give the run's number of rounds", 1)
    _require_share("round_budget", "average", average)
    if number == 1:
        return 1.0
    done = (min(number, rounds) - 2) / max(rounds - 2, 1)
    theta = average * (1 + _AMPLITUDE * math.cos(math.pi * max(done, 0.0)))
    return min(max(theta, _MIN_BUDGET), 1.0)


def error_decay(theta: float) -> float:
    """Return beta_t, the share of the entries not sent that a client keeps for its next update.

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
        ceilings: the largest ratio that each client's link carries in time: bits per second
            times seconds over the model's bits. A client that is missing here has none.

    Raises:
        ValueError: if an argument is out of range.
    """
    _require_scores("client_ratios", scores)
    _require_share("client_ratios", "theta", theta)
    mean, ceilings = sum(scores.values()) / max(len(scores), 1), ceilings or {}
    ratios = {}
    for client, score in scores.items():
        wanted = theta * score / mean if mean > _TINY else theta
        ratios[client] = min(max(min(wanted, ceilings.get(client, 1.0)), _MIN_RATIO), 1.0)
    return ratios


def score_weights(scores: Mapping[Any, float], floor: float = 0.0) -> dict[Any, float]:
    """Return each client's weight in the mean of updates, S_k / sum of S.

    Args:
        scores: S_k >= 0 of the clients whose update came, as in `HeteroSelectV2.scores`.
        floor: lower bound of the scores, >= 0. The authors' 0 gives the client with the
            lowest score of all no weight, though it trained.

    Returns:
        Weights that sum to 1, equal ones if all scores are 0.

    Raises:
        ValueError: if an argument is out of range.
    """
    _require_scores("score_weights", scores)
    _require_scores("score_weights", {"floor": floor})
    raised = {client: max(score, floor) for client, score in scores.items()}
    total = math.fsum(raised.values())
    if total < _TINY:
        return dict.fromkeys(scores, 1 / max(len(scores), 1))
    return {client: score / total for client, score in raised.items()}


def compressed_bytes(kept: int, total: int, value_bytes: int = 4) -> int:
    """Return the size of an update on the wire, positions included, without headers.

    The least of three plain forms: every value; the values kept with a position of 4 bytes (8
    beyond 2^32 entries) each; the values kept with one bit for each entry.

    Args:
        kept: entries sent, 0 <= kept <= total.
        total: N, entries in all.
        value_bytes: bytes of one value; 4 for float32.

    Raises:
        ValueError: if `kept` is out of range.
    """
    remedy = "count the entries sent, of `total`"
    require_number("compressed_bytes", "kept", kept, remedy, low=0, high=total)
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

    indices: Tensor
    values: Tensor
    length: int

    def dense(self) -> Tensor:
        """Return the update as [N], 0 where nothing was sent."""
        whole = self.values.new_zeros(self.length)
        whole[self.indices] = self.values
        return whole

    @property
    def bytes(self) -> int:
        """The size on the wire, positions included."""
        return compressed_bytes(len(self.values), self.length, self.values.element_size())


class ErrorFeedback:
    """Top-k compression that adds the entries it did not send to the client's next update.

    So they are delayed and not lost. It takes N numbers for each client that ever sent.
    """

    def __init__(self) -> None:
        self._errors: dict[Any, Tensor] = {}

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
            decay: beta_t in [0, 1], the share kept of the entries not sent; 0 keeps nothing.
            curvature: H_ii, as long as `delta`; NaN for entries where it was not estimated,
                which compete by v_i^2 alone. The two scales do not compare, as in the
                authors' code: estimate all entries or none.

        Raises:
            ValueError: if an argument is out of range, `delta` is not finite, or not as long
                as the client's last one; nothing is changed then.
        """
        call = "ErrorFeedback.compress"
        _require_share(call, "ratio", ratio)
        require_number(call, "decay", decay, "1 keeps all", low=0, high=1)
        whole = flat(delta, call, "delta").clone()
        error = self._errors.get(client)
        if error is not None:
            require_length(call, "delta", whole, len(error))
            whole += error.to(whole.device)
        rule, remedy = "has entries that are not finite", "leave a client that diverged out"
        require(bool(whole.isfinite().all()), call, "delta", client, rule, remedy)
        # By |v|, whose order is that of v^2 and which neither overflows nor vanishes.
        rank = whole.abs().to(torch.promote_types(whole.dtype, torch.float32))
        if curvature is not None:
            h = flat(curvature, call, "curvature").to(rank.device)
            require_length(call, "curvature", h, len(rank))
            rank = torch.where(h.isnan(), rank, rank / h.abs().clamp(min=_MIN_CURVATURE).sqrt())
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
        require_savable("ErrorFeedback.state_dict", self._errors)
        errors = [error.clone() for error in self._errors.values()]
        lengths = [len(error) for error in errors]
        return {"ids": list(self._errors), "errors": errors, "lengths": lengths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state of `state_dict`.

        Args:
            state: the state. An older one may lack `lengths`, by which damage is noticed.

        Raises:
            ValueError: if it lacks an entry, or has not one tensor for each id; nothing is
                changed then.
        """
        entries = Entries(state, "ErrorFeedback")
        ids = read_ids(entries, "ids")
        lengths: list[Any] = [None] * len(ids)
        if entries.has("lengths"):
            lengths = entries.integers("lengths", len(ids), low=1)
        errors = entries.listed("errors", len(ids))
        read = [errors.tensor(str(i), (n,)) for i, n in enumerate(lengths)]
        self._errors = {i: error.clone() for i, error in zip(ids, read, strict=True)}


def _require_share(call: str, argument: str, value: float) -> None:
    require_number(call, argument, value, "1 sends everything", above=0, high=1)


def _require_scores(call: str, scores: Mapping[Any, float]) -> None:
    for client, score in scores.items():
        rule = f"of {client!r} must be finite and at least 0, at most {LARGEST:g}"
        fits = 0 <= score <= LARGEST
        require(fits, call, "scores", score, rule, "rescale the scores to [0, 1]")
