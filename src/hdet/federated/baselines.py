"""Server learning rates to compare with: FedExP, and exponential decay.

FedExP extrapolates: where the clients' updates nearly cancel in the mean, the server steps
further, by the ratio of their mean squared length to the squared length of their mean,

    eta_t = max(1, sum_i p_i ||Delta_i||^2 / (2 (||Delta||^2 + eps)))

with p_i the weights of the mean, 1/M in the paper. Its steps overshoot by design, so the
model it is judged by is the mean of the last two iterates.

Source: Jhunjhunwala, Wang, Joshi, "FedExP: Speeding Up Federated Averaging via
Extrapolation", ICLR 2023, arXiv:2301.09604, Algorithm 1.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import require
from ..state import Entries
from .checks import require_finite, require_rate
from .vectors import flat, inner


class FedExP:
    """The extrapolating server rate; stateless between rounds.

    Args:
        eps: added to the squared length of the mean update, >= 0; the paper tunes it.
            The default keeps a vanishing mean from giving an endless step, and is small
            beside the squared updates of a model with thousands of parameters.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        require(eps >= 0, "FedExP", "eps", eps, "must be at least 0", "0.001 is usual")
        self._eps = eps

    def update(
        self,
        delta: Any,
        squared_norms: Sequence[float],
        weights: Sequence[float] | None = None,
    ) -> float:
        """Return eta_t. Local.

        Args:
            delta: mean client update, flat, trainable entries only.
            squared_norms: ||Delta_i||^2 of each client that replied, of the same entries.
            weights: the clients' weights in the mean, of any positive scale; equal if None.

        Raises:
            ValueError: if the numbers are not finite, or none were given.
        """
        call = "FedExP.update"
        mean = flat(delta, call, "delta")
        weights = [1.0] * len(squared_norms) if weights is None else weights
        require(
            len(weights) == len(squared_norms) > 0 and sum(weights) > 0,
            call,
            "weights",
            list(weights),
            f"must be {len(squared_norms)} numbers with a positive sum",
            "give one weight and one squared norm for each client that replied",
        )
        pairs = zip(weights, squared_norms, strict=True)
        spread = sum(w * n for w, n in pairs) / sum(weights)
        ratio = spread / (2 * (float(inner(mean, mean)) + self._eps) or 1.0)
        require_finite(ratio, call, "delta")
        return max(1.0, ratio)


class Decay:
    """A rate that shrinks by a constant factor every round: rate, rate f, rate f^2, ...

    Args:
        rate: of round one, above 0; a server rate (1.0 is FedAvg) or a local rate.
        factor: in (0, 1]; the default is that of FedHyper's own comparison.
    """

    def __init__(self, rate: float = 1.0, factor: float = 0.995) -> None:
        require_rate("Decay", rate)
        require(0 < factor <= 1, "Decay", "factor", factor, "must lie in (0, 1]", "try 0.995")
        self._rate, self._factor, self._rounds = rate, factor, 0

    def update(self) -> float:
        """Return this round's rate and move on. Local."""
        rate = self._rate * self._factor**self._rounds
        self._rounds += 1
        return rate

    def state_dict(self) -> dict[str, int]:
        """Return how many rounds have been."""
        return {"rounds": self._rounds}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up a state of `state_dict`.

        Args:
            state: the state; rate and factor are the constructor's, and not part of it.

        Raises:
            ValueError: if it is damaged, or of so many rounds that nothing is left of the
                rate; nothing is changed then.
        """
        entries = Entries(state, "Decay")
        rounds = entries.integer("rounds")
        if not self._rate * self._factor**rounds > 0:
            entries.refuse("rounds", rounds, f"leaves nothing of the rate {self._rate:g}")
        self._rounds = rounds
