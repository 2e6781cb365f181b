"""FedHyper's hypergradient, and the three rules that follow it.

If this round's mean client update points where the last one pointed, the steps were too short;
if it points back, they were too long. The inner product of the two is the derivative of the
loss with respect to the learning rate, one round late, and each rule adds it to its rate:

    h^t = <Delta^t, Delta^{t-1}>

    G   alpha^t = clip(alpha^{t-1} + h^t)                                        (14)-(16)
    SL  beta^{t+1} = clip(beta^t + h^t)                                          (17)-(18)
    CL  beta^{t,k} = clip(beta^{t,k-1} + <g^k, g^{k-1}> + (1/K) <g^k, Delta^{t-1}>)   (20)

    alpha^t   global (server) learning rate          Delta^t  mean client update of round t
    beta^t    local (client) learning rate           g^k      a client's gradient at step k
    K         local steps of a round                 clip     to bounds set by gamma

G and SL are in `rates`, CL is in `client_rate`. In (20) Delta is old minus new weights, like a
gradient; everywhere in hdet an update is new minus old, and CL turns the sign.

Source: Wang, Wang, Li, "FedHyper: A Universal and Robust Learning Rate Scheduler for
Federated Learning with Hypergradient Descent", ICLR 2024, arXiv:2310.03156. Where the paper is
silent (the unit of h, whether bounds are relative, what keeps CL from running away) the choice
is a parameter of the rule. No call communicates.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..state import Entries
from .vectors import flat, inner, require_finite, require_length


class Hypergradient:
    """The inner product of each update with the one before it, of which it keeps one copy.

    Several rules can follow one hypergradient:

        hypergradient.update(delta)
        alpha, beta = global_rate.follow(hypergradient), local_rate.follow(hypergradient)

    Args:
        call: the public name that is called, for errors.
        argument: the name of its argument, for errors.

    Attributes:
        previous: the last update, flat; None before the first.
        value: h of the last two updates; 0 before the second.
        cosine: h over the norms of the two; 0 if either is zero, and before the second.
    """

    def __init__(self, call: str = "Hypergradient.update", argument: str = "update") -> None:
        self._call, self._argument = call, argument
        self.previous: Tensor | None = None
        self.value = self.cosine = 0.0
        self._square = 0.0

    def update(self, update: Any) -> float:
        """Return h of this update and the last one, 0 for the first. Local.

        Args:
            update: flat mean of the clients' weights minus the old global weights, trainable
                entries only: [n] tensor or array. A copy is kept for the next round.

        Raises:
            ValueError: if `update` is not finite, or not as long as the last one; the state
                is then as before.
        """
        current = flat(update, self._call, self._argument)
        products = [inner(current, current)]
        if self.previous is not None:
            require_length(self._call, self._argument, current, len(self.previous))
            products.append(inner(current, self.previous.to(current.device)))
        # One wait for the device. The first update has no product.
        square, value = [*torch.stack(products).tolist(), 0.0][:2]
        require_finite(self._call, self._argument, square)
        require_finite(self._call, self._argument, value)
        norms = math.sqrt(square * self._square)
        cosine = value / norms if norms > 0 else 0.0
        self.value, self.cosine, self._square = value, cosine, square
        self.previous = current.clone()
        return value

    def state_dict(self) -> dict[str, Any]:
        """Return a number and a tensor; a run resumed from them goes on bit for bit."""
        previous = None if self.previous is None else self.previous.clone()
        return {"hypergradient": self.value, "previous": previous}

    def read(self, entries: Entries) -> "Hypergradient":
        """Return the hypergradient of a state in `entries`; this one stays as it is.

        A damaged state, or one of an update of another length, is a `ValueError`.
        """
        made = Hypergradient(self._call, self._argument)
        made.value = entries.number("hypergradient")
        length = None if self.previous is None else len(self.previous)
        previous = entries.optional("previous", entries.tensor, shape=(length,))
        if previous is None:
            if made.value != 0:
                entries.refuse("previous", None, "must be an update if `hypergradient` isn't 0")
            return made
        made.previous, made._square = previous.clone(), float(inner(previous, previous))
        if len(previous) == 0 or not math.isfinite(made._square):
            entries.refuse("previous", previous, "must have entries, and a finite norm")
        return made
