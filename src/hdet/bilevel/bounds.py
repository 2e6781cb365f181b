"""What an inexact solution guarantees about f and about its hypergradient.

With eps >= |x - x(theta)| of each sample, delta >= |H q - grad g(x)| and all else at x:

    U  = g + |grad g| eps + L_g/2 eps^2  >=  f          bounds on f (section 3)
    Lo = g - |grad g| eps - L_g/2 eps^2  <=  f          without the last term if g is convex

    c     = L_g |J|/mu + L_{H^-1} |grad g| |J| + L_J |grad g|/mu
    omega = c eps + |J|/mu delta + L_J L_g/mu eps^2     >=  |z - grad f|     (Theorem 2.1)

As f is a mean over samples, so are all three. Source: arXiv 2308.10098, Theorem 2.1 and Remark
3.6.
"""

import torch
from torch import Tensor

from ..state import Entries
from .linear import largest_curvatures, noise
from .modes import plain
from .oracle import Oracle, require_finite

# Power iterations come from below: what they may lack, and their largest number.
_MARGIN, _ROUNDS = 1.02, 20


def upper_bound(
    value: Tensor, upper_grad_norm: Tensor, accuracy: Tensor, smoothness: float
) -> float:
    """Return U, the mean over samples, from g, |grad g| and eps, [m], and L_g."""
    bend = smoothness / 2 * accuracy.square()
    return float((value + upper_grad_norm * accuracy + bend).mean())


def lower_bound(
    value: Tensor, upper_grad_norm: Tensor, accuracy: Tensor, smoothness: float, convex: bool
) -> float:
    """Return Lo, the mean over samples, likewise; `convex` says whether g is."""
    bend = 0.0 if convex else smoothness / 2
    return float((value - upper_grad_norm * accuracy - bend * accuracy.square()).mean())


class Constants:
    """L_g, as `smoothness`, and |J|: given by the user, or estimated as the run goes."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle, self._problem = oracle, oracle.problem
        self.smoothness: float = self._problem.upper_smoothness or 0.0
        self._direction: Tensor | None = None

    def see(self, x: Tensor, theta: Tensor) -> None:
        """Raise L_g to g's curvature at theta's solution x, unless the user gave it."""
        if self._problem.upper_smoothness is not None:
            return
        product = self._oracle.upper_hessian(x)
        value = largest_curvatures(product, noise(x), _ROUNDS, 1.01)
        remedy = "give `upper_smoothness`, or a g that is smooth at lower-level solutions"
        require_finite("a second derivative of `Problem(upper=...)`", theta, remedy, value)
        self.smoothness = max(self.smoothness, _MARGIN * float(value.max()))

    def omega(
        self,
        theta: Tensor,
        x: Tensor,
        upper_grad_norm: Tensor,
        accuracy: Tensor,
        residual: Tensor,
        mu: float,
    ) -> float:
        """Return Theorem 2.1's bound on the error of the hypergradient, if `certified`.

        |grad g|, eps and delta are those of each sample, [m].
        """
        problem, smooth = self._problem, self.smoothness
        inverse = problem.inverse_hessian_lipschitz or 0.0
        mixed = problem.jacobian_lipschitz or 0.0
        size = self._jacobian_norm(theta, x)
        factor = (
            smooth * size / mu + inverse * upper_grad_norm * size + mixed * upper_grad_norm / mu
        )
        first = factor * accuracy + size / mu * residual
        return float((first + mixed * smooth / mu * accuracy.square()).mean())

    def _jacobian_norm(self, theta: Tensor, x: Tensor) -> float:
        """Return |J| over all samples stacked, which is at least that of each."""
        if self._problem.jacobian_norm is not None:
            return self._problem.jacobian_norm
        # Power iteration on J^T J, from below, until it grows by under 1 %. It starts where the
        # last one ended, and so takes two rounds if J hardly changed.
        v, value = self._direction, 0.0
        v = noise(theta[None])[0] if v is None else v
        for _ in range(_ROUNDS):
            image = self._oracle.jacobian(x, theta, v / torch.linalg.vector_norm(v))
            last, value = value, float(torch.linalg.vector_norm(image))
            if value <= 1.01 * last:
                value = max(value, last)
                break
            v = self._oracle.jacobian_transposed(x, theta, image)
            if not bool(v.any()):
                break
            self._direction = v
        return _MARGIN * value

    def state_dict(self) -> dict[str, object]:
        """Return what was estimated, as numbers and tensors."""
        direction = None if self._direction is None else plain(self._direction)
        return {"smoothness": self.smoothness, "direction": direction}

    def load_state_dict(self, entries: Entries, theta: Tensor) -> None:
        """Go on from `state_dict`; a damaged one changes nothing. theta is one of the run."""
        smoothness = entries.number("smoothness", low=0)
        rules = {"shape": theta.shape, "dtype": theta.dtype}
        direction = entries.optional("direction", entries.tensor, **rules)
        if direction is not None and not bool(direction.any()):
            entries.refuse("direction", direction, "must not be zero")
        # What the user gave takes precedence.
        if self._problem.upper_smoothness is None:
            self.smoothness = smoothness
        self._direction = None if direction is None else plain(direction).to(theta.device)
