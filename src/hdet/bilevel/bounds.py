"""What an inexact solution makes certain of g, and of the hypergradient.

With eps >= |x - x(theta)| of each sample, delta >= |H q - grad g(x)| and all else at x:

    U  = g + |grad g| eps + L_g/2 eps^2  >=  f          f's bounds (section 3)
    Lo = g - |grad g| eps - L_g/2 eps^2  <=  f          without the last term if g is convex

    c     = L_g |J|/mu + L_{H^-1} |grad g| |J| + L_J |grad g|/mu
    omega = c eps + |J|/mu delta + L_J L_g/mu eps^2     >=  |z - grad f|     (Theorem 2.1)

Over samples all three are means, as f is. Source: arXiv 2308.10098, Theorem 2.1, Remark 3.6.
"""

import torch
from torch import Tensor

from ..state import Entries
from .linear import largest_singular_value
from .modes import plain
from .oracle import Oracle, norms, require_finite

# What iterations from below may lack, and how many they are at most.
_MARGIN, _ROUNDS = 1.02, 20


def upper_bound(value: Tensor, slope: Tensor, accuracy: Tensor, smoothness: float) -> float:
    """Return U, the mean over samples.

    Args:
        value: g, [m].
        slope: |grad g|, [m].
        accuracy: eps, [m].
        smoothness: L_g.
    """
    return float((value + slope * accuracy + smoothness / 2 * accuracy.square()).mean())


def lower_bound(
    value: Tensor, slope: Tensor, accuracy: Tensor, smoothness: float, convex: bool
) -> float:
    """Return Lo, the mean over samples; arguments as `upper_bound`."""
    bend = 0.0 if convex else smoothness / 2
    return float((value - slope * accuracy - bend * accuracy.square()).mean())


class Constants:
    """L_g and |J|: the user's, or found at the points of a run.

    Args:
        oracle: the problem.

    Attributes:
        smoothness: L_g so far; only ever rises.
    """

    def __init__(self, oracle: Oracle) -> None:
        self._oracle, self._problem = oracle, oracle.problem
        self.smoothness = self._problem.upper_smoothness or 0.0
        self._direction: Tensor | None = None

    def see(self, x: Tensor, theta: Tensor) -> None:
        """Take g's curvature at x into L_g, unless the user gave it. No lower level.

        Args:
            x: [m, n].
            theta: whose solution x is, [p].

        Raises:
            NonFiniteError: if the curvature is not finite.
        """
        if self._problem.upper_smoothness is not None:
            return
        product = self._oracle.upper_hessian(x)
        v = _noise(x)
        value = torch.zeros_like(norms(v))
        for _ in range(_ROUNDS):
            v = product(v / norms(v).clamp_min(torch.finfo(x.dtype).tiny)[:, None])
            last, value = value, norms(v)
            if bool((value <= 1.01 * last).all()):
                break
        remedy = "give `upper_smoothness`, or see that g is smooth at lower-level solutions"
        require_finite("a second derivative of `Problem(upper=...)`", theta, remedy, value)
        self.smoothness = max(self.smoothness, _MARGIN * float(value.max()))

    def omega(
        self,
        theta: Tensor,
        x: Tensor,
        slope: Tensor,
        accuracy: Tensor,
        residual: Tensor,
        mu: float,
    ) -> float:
        """Return Theorem 2.1's bound on the hypergradient's error; for certified problems.

        Args:
            theta: [p].
            x: [m, n].
            slope: |grad g|, [m].
            accuracy: eps, [m].
            residual: delta, [m].
            mu: strong convexity.
        """
        problem, smooth = self._problem, self.smoothness
        inverse = problem.inverse_hessian_lipschitz or 0.0
        mixed = problem.jacobian_lipschitz or 0.0
        size = self._jacobian_norm(theta, x)
        factor = smooth * size / mu + inverse * slope * size + mixed * slope / mu
        first = factor * accuracy + size / mu * residual
        return float((first + mixed * smooth / mu * accuracy.square()).mean())

    def _jacobian_norm(self, theta: Tensor, x: Tensor) -> float:
        if self._problem.jacobian_norm is not None:
            return self._problem.jacobian_norm
        # Over all samples stacked, which no sample's own exceeds. It begins where the last
        # one ended, so that it takes two rounds where J hardly moves.
        if self._direction is None:
            self._direction = _noise(theta[None])[0]

        def transposed(image: Tensor) -> Tensor:
            back = self._oracle.jacobian_transposed(x, theta, image)
            if bool(back.any()):
                self._direction = back
            return back

        return _MARGIN * largest_singular_value(
            lambda v: self._oracle.jacobian(x, theta, v),
            transposed,
            self._direction,
            rounds=_ROUNDS,
        )

    def state_dict(self) -> dict[str, object]:
        """Return what was found, as numbers and tensors."""
        direction = None if self._direction is None else plain(self._direction)
        return {"smoothness": self.smoothness, "direction": direction}

    def load_state_dict(self, entries: Entries, theta: Tensor) -> None:
        """Go on from `state_dict`.

        Args:
            entries: what it returned.
            theta: like those of the run, [p].

        Raises:
            ValueError: if an entry is damaged; nothing is changed then.
        """
        smoothness = entries.number("smoothness", low=0)
        rules = {"shape": theta.shape, "dtype": theta.dtype}
        direction = entries.optional("direction", entries.tensor, **rules)
        if direction is not None and not bool(direction.any()):
            entries.refuse("direction", direction, "must not be zero")
        # What the user gave is not in question.
        if self._problem.upper_smoothness is None:
            self.smoothness = smoothness
        self._direction = None if direction is None else plain(direction).to(theta.device)


def _noise(like: Tensor) -> Tensor:
    generator = torch.Generator(device=like.device).manual_seed(0)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
