"""FedHyper's server rules: G for the global rate, SL for one local rate of all clients.

What G and SL add to their rate is a parameter, `step`, of h = <Delta^t, Delta^{t-1}> and the
rate r, which began at r^0:

    "cosine"    r h / (2 |Delta^t| |Delta^{t-1}|)    the default here and everywhere in hdet
    "absolute"  h                                    the equations as printed
    "relative"  r^0 h                                SL in the authors' code

h has the unit of a squared update. So the last two hardly move a rate that is far too low,
where updates are short, and push one whose updates are long from bound to bound.

Source, symbols and equations: `hdet.federated.hypergradient`.
"""

from typing import Any

from torch import Tensor

from ..errors import require_choice, require_number
from ..state import Entries
from .hypergradient import Hypergradient

# What a cosine of 1 adds to a rate, as a share of it. The rate grows tenfold in six rounds, and
# a cosine by chance, 0.1 to 0.2 with a tenth of the clients a round, moves it by a twentieth.
_COSINE_STEP = 0.5

GAMMA_REMEDY = "1 holds the rate where it starts"
RATE_REMEDY = "give the learning rate that you would use without this rule"


class _ServerRate:
    """A scalar that follows a hypergradient, its own or one that several rules share.

    Attributes:
        memory: its own hypergradient, which `update` moves.
    """

    def __init__(
        self, rate: float, low: float, high: float, step: str, fall: float = 1.0
    ) -> None:
        name = type(self).__name__
        steps = ("cosine", "absolute", "relative")
        require_choice(name, "step", step, steps, 'leave it out for "cosine", the default')
        self._rate, self._start = float(rate), float(rate)
        self._low, self._high, self._step, self._fall = low, high, step, fall
        self.memory = Hypergradient(f"{name}.update", "delta")

    def follow(self, hypergradient: Hypergradient) -> float:
        """Return the rate moved by the last inner product of a shared hypergradient. Local.

        Args:
            hypergradient: after its `update` with this round's mean client update.
        """
        h = hypergradient.value
        added = {
            "cosine": _COSINE_STEP * hypergradient.cosine * self._rate,
            "absolute": h,
            "relative": self._start * h,
        }[self._step]
        moved = self._rate + (added if added >= 0 else self._fall * added)
        self._rate = min(max(moved, self._low), self._high)
        return self._rate

    def update(self, delta: Any) -> float:
        """Return the rate moved by this round's mean client update. Local.

        Args:
            delta: flat mean of the clients' weights minus the old global weights, trainable
                entries only: [n] tensor or array. A copy is kept for the next round.

        Raises:
            ValueError: if `delta` is not finite, or not as long as the last one; the state
                is then as before.
        """
        self.memory.update(delta)
        return self.follow(self.memory)

    @property
    def hypergradient(self) -> float:
        """<Delta^t, Delta^{t-1}> of the last two calls of `update`; 0 before the second."""
        return self.memory.value

    @property
    def previous_update(self) -> Tensor | None:
        """The last `delta` of `update`, flat; None before the first."""
        return self.memory.previous

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and one tensor; a run resumed from it goes on bit for bit."""
        return {"rate": self._rate, **self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state of `state_dict`.

        Args:
            state: the state; the arguments of the constructor are not part of it.

        Raises:
            ValueError: if `state` is damaged, its rate is outside the bounds, or its update is
                not as long as the last one here; nothing is changed then.
        """
        entries = Entries(state, type(self).__name__)
        memory = self.memory.read(entries)
        self.load_rate(entries)
        self.memory = memory

    def load_rate(self, entries: Entries) -> None:
        """Load the entry `rate` of a state in `entries`, if it lies within the bounds."""
        rate = entries.number("rate")
        if not self._low <= rate <= self._high:
            rule = f"must lie in [{self._low:.6g}, {self._high:.6g}]"
            remedy = "construct with the arguments of the run that wrote the state"
            entries.refuse("rate", rate, rule, remedy)
        self._rate = rate


class GlobalRate(_ServerRate):
    """FedHyper-G: the server's rate alpha; `update` returns that of the same round.

    w^{t+1} = w^t + alpha^t Delta^t. With any server optimizer, scale that optimizer's step; the
    hypergradient always takes the raw mean update.

    Args:
        alpha: alpha^0, used as it is in the first round; 1.0 is FedAvg.
        gamma: alpha stays in [1/gamma, gamma], the paper's clip with its gamma_alpha = 3.
            With 1.0 alpha never moves, and training is that of plain FedAvg bit for bit.
        step: what a hypergradient adds. "cosine", the default, adds at most half of alpha;
            "absolute" is the equation as printed; "relative" adds alpha^0 times it.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, alpha: float = 1.0, gamma: float = 3.0, *, step: str = "cosine") -> None:
        require_number("GlobalRate", "gamma", gamma, GAMMA_REMEDY, low=1)
        remedy = "increase gamma, or start within [1/gamma, gamma]"
        require_number("GlobalRate", "alpha", alpha, remedy, low=1 / gamma, high=gamma)
        super().__init__(alpha, 1 / gamma, gamma, step)

    @property
    def alpha(self) -> float:
        """The rate of the last round."""
        return self._rate


class ServerLocalRate(_ServerRate):
    """FedHyper-SL: one local rate beta for all clients; `update` returns the *next* round's.

    Args:
        beta: beta^0 > 0, the clients' rate in round one.
        gamma: beta stays in [beta^0/gamma, gamma beta^0], the paper's gamma_beta = 10. The
            bound is relative: the absolute one, [1/10, 10], would lift 0.01 to 0.1 at once.
        step: what a hypergradient adds. "cosine", the default, adds at most half of beta;
            "absolute" is the equation as printed, which reaches a bound in the second round;
            "relative" adds beta^0 times it, as the authors' code does.
        fall: the share of a step downwards that is taken, in [0, 1]. 1 is the equation;
            with 0 beta never falls, for use beside `GlobalRate`, which follows the same h.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, beta: float, gamma: float = 10.0, *, step: str = "cosine", fall: float = 1.0
    ) -> None:
        name = "ServerLocalRate"
        require_number(name, "beta", beta, RATE_REMEDY, above=0)
        require_number(name, "gamma", gamma, GAMMA_REMEDY, low=1)
        remedy = "1 is the equation, and with 0 the rate only rises"
        require_number(name, "fall", fall, remedy, low=0, high=1)
        super().__init__(beta, beta / gamma, beta * gamma, step, fall)

    @property
    def beta(self) -> float:
        """The rate that the next message carries."""
        return self._rate
