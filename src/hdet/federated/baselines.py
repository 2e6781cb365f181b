"""Baselines for server learning rates: FedExP, and exponential decay.

FedExP extrapolates: where the clients' updates nearly cancel in the mean, the server steps
further, by the ratio of their mean squared norm to the squared norm of their mean,

    eta_t = max(1, sum_i p_i ||Delta_i||^2 / (2 (||Delta||^2 + eps)))

with p_i the weights of the mean, 1/M in the paper. Its steps overshoot by design, so its result
is the mean of the last two models.

Source: Jhunjhunwala, Wang, Joshi, "FedExP: Speeding Up Federated Averaging via
Extrapolation", ICLR 2023, arXiv:2301.09604, Algorithm 1.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import require, require_number
from ..state import Entries
from .vectors import flat, inner, require_finite


class FedExP:
    """The extrapolating server rate; it keeps nothing between rounds.

    Args:
        eps: added to the squared norm of the mean update, >= 0; the paper tunes it. The
            default bounds the step where the mean vanishes, and is small beside the squared
            updates of a model with thousands of parameters.

    Raises:
        ValueError: if `eps` is negative.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        require_number("FedExP", "eps", eps, "0.001 is usual", low=0)
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
        rule = f"must be {len(squared_norms)} numbers with a positive sum"
        remedy = "give one weight and one squared norm for each client that replied"
        fits = len(weights) == len(squared_norms) > 0 and sum(weights) > 0
        require(fits, call, "weights", list(weights), rule, remedy)
        pairs = zip(weights, squared_norms, strict=True)
        spread = sum(w * n for w, n in pairs) / sum(weights)
        ratio = spread / (2 * (float(inner(mean, mean)) + self._eps) or 1.0)
        require_finite(call, "delta", ratio)
        return max(1.0, ratio)


class Decay:
    """A rate that shrinks by a constant factor every round: rate, rate f, rate f^2, ...

    Args:
        rate: of round one, above 0; a server rate (1.0 is FedAvg) or a local rate.
        factor: in (0, 1]; the default is that of FedHyper's own comparison.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, rate: float = 1.0, factor: float = 0.995) -> None:
        require_number("Decay", "rate", rate, "give the rate of round one", above=0)
        require_number("Decay", "factor", factor, "try 0.995", above=0, high=1)
        self._start, self._factor, self._rounds = rate, factor, 0

    @property
    def rate(self) -> float:
        """The rate that the next `update` returns."""
        return self._start * self._factor**self._rounds

    def update(self) -> float:
        """Return this round's rate and move on to the next round. Local."""
        rate = self.rate
        self._rounds += 1
        return rate

    def state_dict(self) -> dict[str, int]:
        """Return how many rounds have passed."""
        return {"rounds": self._rounds}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Load a state of `state_dict`.

        Args:
            state: the state; rate and factor are the constructor's, and not part of it.

        Raises:
            ValueError: if it is damaged, or of so many rounds that the rate underflows to 0;
                nothing is changed then.
        """
        entries = Entries(state, "Decay")
        rounds = entries.integer("rounds")
        if not self._start * self._factor**rounds > 0:
            entries.refuse("rounds", rounds, f"would bring the rate {self._start:g} to 0")
        self._rounds = rounds
