"""FedHyper: learning rates of federated training that follow the hypergradient.

The idea: if this round's mean client update points where the last one pointed, the steps
were too short; if it points back, they were too long. The inner product of the two is the
(shifted) derivative of the loss by the learning rate, and is added to the rate.

Source: Wang, Wang, Li, "FedHyper: A Universal and Robust Learning Rate Scheduler for
Federated Learning with Hypergradient Descent", ICLR 2024, arXiv:2310.03156. Symbols:

    alpha^t   global (server) learning rate          Delta^t  mean client update of round t
    beta^t    local (client) learning rate           g_m      client m's stochastic gradient
    K         local steps of a round                 gamma    width of the clip

    G   alpha^t = clip(alpha^{t-1} + <Delta^t, Delta^{t-1}>)                     (14)-(16)
    SL  beta^{t+1} = clip(beta^t + <Delta^t, Delta^{t-1}>)                       (17)-(18)
    CL  beta^{t,k} = clip(beta^{t,k-1} + <g^k, g^{k-1}> + (1/K) <g^k, Delta^{t-1}>)   (20)

In (20) Delta is gradient-like, old minus new; here every update is new minus old, and the
sign is turned inside. What G and SL add to their rate is a parameter, `step`, the same for
both, of h = <Delta^t, Delta^{t-1}> and the rate r, which began at r^0:

    "cosine"    r h / (2 |Delta^t| |Delta^{t-1}|)    the default here and everywhere in hdet
    "absolute"  h                                    the equations as they are printed
    "relative"  r^0 h                                SL as in the authors' code

h has the unit of a squared update, so the last two hardly move a rate that is far too low,
whose updates are short, and throw one whose updates are long from bound to bound. Where else
the paper is silent (whether a bound is relative, what keeps CL from running away) the choice
is a parameter too. None of these classes communicates: all calls are local.
"""

import math
from typing import Any

import torch

from ..errors import require
from ..state import Entries
from .checks import require_finite, require_gamma, require_rate, require_same_length
from .vectors import flat, inner

# What a cosine of 1 adds to a rate, as a share of it: ten times in six rounds, yet a cosine
# of chance, 0.1 to 0.2 in size with a tenth of the clients a round, moves it by a twentieth.
_COSINE_STEP = 0.5
_STEPS = ("cosine", "absolute", "relative")


class _ServerRate:
    """A scalar that <Delta^t, Delta^{t-1}> moves; what G and SL share."""

    def __init__(
        self, rate: float, low: float, high: float, step: str, fall: float = 1.0
    ) -> None:
        require(
            step in _STEPS,
            type(self).__name__,
            "step",
            step,
            f"must be one of {', '.join(_STEPS)}",
            'leave it out for "cosine", the default',
        )
        self._rate, self._start = float(rate), float(rate)
        self._low, self._high, self._step, self._fall = low, high, step, fall
        self._previous: torch.Tensor | None = None
        self.hypergradient = 0.0

    def _move(self, delta: Any) -> float:
        call = f"{type(self).__name__}.update"
        current = flat(delta, call, "delta")
        require_finite(float(inner(current, current)), call, "delta")
        rate, hypergradient = self._rate, 0.0
        if self._previous is not None:
            require_same_length(current, self._previous, call, "delta")
            previous = self._previous.to(current.device)
            hypergradient = float(inner(current, previous))
            require_finite(hypergradient, call, "delta")
            added = self._added(current, previous, hypergradient)
            rate = min(
                max(rate + (added if added >= 0 else self._fall * added), self._low),
                self._high,
            )
        # Only now, so that a refused update leaves everything as it was.
        self._rate, self.hypergradient = rate, hypergradient
        self._previous = current.clone()
        return rate

    def _added(
        self, current: torch.Tensor, previous: torch.Tensor, hypergradient: float
    ) -> float:
        if self._step == "absolute":
            return hypergradient
        if self._step == "relative":
            return self._start * hypergradient
        lengths = float((inner(current, current) * inner(previous, previous)).sqrt())
        cosine = hypergradient / lengths if lengths > 0 else 0.0
        return _COSINE_STEP * cosine * self._rate

    @property
    def previous_update(self) -> torch.Tensor | None:
        """The last `delta`, flat, or None before the first; what `ClientLocalRate` needs."""
        return self._previous

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and one tensor; a run resumed from it goes on bit for bit."""
        return {
            "rate": self._rate,
            "hypergradient": self.hypergradient,
            "previous": None if self._previous is None else self._previous.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of `state_dict`.

        Args:
            state: the state; the arguments of the constructor are not part of it.

        Raises:
            ValueError: if `state` lacks an entry or one is not what it must be, its rate
                breaks the bounds, or its update is not as long as this rule's own last one;
                nothing is changed then.
        """
        entries = Entries(state, type(self).__name__)
        rate = entries.number("rate")
        if not self._low <= rate <= self._high:
            entries.refuse(
                "rate",
                rate,
                f"must lie in [{self._low:.6g}, {self._high:.6g}]",
                "construct with the arguments of the run that wrote the state",
            )
        hypergradient = entries.number("hypergradient")
        size = None if self._previous is None else len(self._previous)
        previous = entries.optional("previous", entries.tensor, shape=(size,))
        if previous is None and hypergradient != 0:
            entries.refuse("previous", None, "must be an update where there is a hypergradient")
        if previous is not None:
            if len(previous) == 0:
                entries.refuse("previous", previous, "must have entries")
            if not math.isfinite(float(inner(previous, previous))):
                entries.refuse("previous", previous, "must have a square that is finite")
        self._previous = None if previous is None else previous.clone()
        self._rate, self.hypergradient = rate, hypergradient


class GlobalRate(_ServerRate):
    """FedHyper-G: the server's rate alpha, moved in the round it is used in.

    w^{t+1} = w^t + alpha^t Delta^t. Put it over any server optimizer by scaling that
    optimizer's step; the hypergradient always takes the raw mean update.

    Args:
        alpha: alpha^0, used as it is in the first round; 1.0 is FedAvg.
        gamma: alpha stays in [1/gamma, gamma], the paper's clip with its gamma_alpha = 3.
            With 1.0 alpha never moves, and training is the wrapped strategy's bit for bit.
        step: what a hypergradient adds. "cosine", the default, adds at most half of alpha;
            "absolute" is the equation as printed; "relative" adds alpha^0 times it.

    Raises:
        ValueError: if `gamma` < 1 or `alpha` lies outside the clip.
    """

    def __init__(self, alpha: float = 1.0, gamma: float = 3.0, *, step: str = "cosine") -> None:
        require_gamma("GlobalRate", gamma)
        require(
            1 / gamma <= alpha <= gamma,
            "GlobalRate",
            "alpha",
            alpha,
            f"must lie in [1/gamma, gamma] = [{1 / gamma:.6g}, {gamma:.6g}]",
            "widen gamma, or start inside",
        )
        super().__init__(alpha, 1 / gamma, gamma, step)

    @property
    def alpha(self) -> float:
        """The rate of the last round."""
        return self._rate

    def update(self, delta: Any) -> float:
        """Return this round's alpha. Local.

        Args:
            delta: flat mean of the clients' weights minus the old global weights, trainable
                entries only: [n] tensor or array. A copy is kept for the next round.

        Raises:
            ValueError: if `delta` is not finite, or not as long as the last one; the state
                is then as before.
        """
        return self._move(delta)


class ServerLocalRate(_ServerRate):
    """FedHyper-SL: one local rate beta for all clients of the next round.

    Args:
        beta: beta^0 > 0, the clients' rate in round one.
        gamma: beta stays in [beta^0/gamma, gamma beta^0], the paper's gamma_beta = 10. The
            bound is relative: the absolute one, [1/10, 10], would lift 0.01 to 0.1 at once.
        step: what a hypergradient adds. "cosine", the default, adds at most half of beta;
            "absolute" is the equation as printed, and sits at a bound from the second round
            on; "relative" adds beta^0 times it, as the authors' code does.
        fall: the share of a step downwards that is made, in [0, 1]. 1 is the equation; with
            0 beta never falls, for use beside `GlobalRate`, which answers the same product.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        beta: float,
        gamma: float = 10.0,
        *,
        step: str = "cosine",
        fall: float = 1.0,
    ) -> None:
        require_rate("ServerLocalRate", beta)
        require_gamma("ServerLocalRate", gamma)
        require(
            0 <= fall <= 1,
            "ServerLocalRate",
            "fall",
            fall,
            "must lie in [0, 1]",
            "1 is the equation, 0 lets the rate rise only",
        )
        super().__init__(beta, beta / gamma, beta * gamma, step, fall)

    @property
    def beta(self) -> float:
        """The rate that the next message carries."""
        return self._rate

    def update(self, delta: Any) -> float:
        """Return the *next* round's beta. Local.

        Args:
            delta: as for `GlobalRate.update`.

        Raises:
            ValueError: as for `GlobalRate.update`.
        """
        return self._move(delta)
