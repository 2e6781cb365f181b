"""A bilevel problem: two callables, and what is known of their constants.

    min over theta of  f(theta) = mean over samples of g(x(theta))        upper level
    x(theta)        =  argmin over x of h(x, theta)                       lower level

h is mu-strongly convex in x and twice differentiable. The constants of Theorem 2.1 make an
inexact hypergradient's error certain; where one is missing, the error is not known.

Source: Salehi, Mukherjee, Roberts, Ehrhardt, arXiv 2308.10098, section 2.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..errors import require
from .checks import is_number

_CALL = "Problem"


class Problem:
    """min over theta of upper(x), where x minimises lower(x, theta).

    Args:
        upper: g(x) as a scalar tensor; with `samples` one value per sample, [m]. It need not
            look at every tensor of x.
        lower: h(x, theta) likewise; it must depend on every tensor of theta, and, without a
            ridge, on every one of x. Both are differentiated twice by autograd, so they must
            be made of differentiable functions of torch, twice so. Neither sees the caller's
            `torch.no_grad()` or `torch.inference_mode()`.
        mu: strong convexity of h in x, for every theta that may be visited: a number, or a
            function of theta. Too large a number voids every accuracy, and is an error as
            soon as curvature contradicts it. None if `ridge` gives it.
        ridge: gamma > 0 adds gamma/2 |x|^2 to h, which then is strongly convex with gamma
            more. Needed where learned weights may vanish, or h is only convex.
        upper_smoothness: L_g, Lipschitz constant of g's gradient, a sample's own; 1 for
            g = |x - x*|^2 / 2. None: it is taken from g's curvature at hand, which is exact
            for quadratic g, and then nothing is certified.
        upper_convex: whether g is convex, which makes its lower bound tighter (Remark 3.6).
        jacobian_norm: a bound on |J|, J = d^2 h / dx dtheta. None: by power iteration.
        inverse_hessian_lipschitz: L_{H^-1}, Lipschitz constant of the inverse Hessian as a
            function of x, for every theta that may be visited; 0 where h is quadratic in x.
        jacobian_lipschitz: L_J, of J as a function of x, likewise. 0 only where h is quadratic
            in x and theta jointly: a penalty sum(exp(theta) * x^2) / 2 is quadratic in x, and
            its L_J is the largest exp(theta). Too small a number voids the bound.
        samples: whether the first dimension of every tensor of x counts samples, each with
            an x and a lower level of its own; theta is shared, f is the mean.

    Attributes:
        certified: whether all constants are there that Theorem 2.1 needs.

    Raises:
        ValueError: if a level is no function, a constant is out of range, or neither `mu` nor
            `ridge` is given.
    """

    def __init__(
        self,
        upper: Callable[[Any], Tensor],
        lower: Callable[[Any, Any], Tensor],
        *,
        mu: float | Callable[[Any], float] | None = None,
        ridge: float = 0.0,
        upper_smoothness: float | None = None,
        upper_convex: bool = False,
        jacobian_norm: float | None = None,
        inverse_hessian_lipschitz: float | None = None,
        jacobian_lipschitz: float | None = None,
        samples: bool = False,
    ) -> None:
        for name, level in (("upper", upper), ("lower", lower)):
            rule, remedy = "must be a function", f"write {name}=lambda ...: a scalar tensor"
            require(callable(level), _CALL, name, level, rule, remedy)
        ridge, mu = _as_number(ridge), _as_number(mu)
        good = _at_least_zero(ridge)
        require(good, _CALL, "ridge", ridge, "must be finite and at least 0", "try 1e-3")
        good = mu is not None or ridge > 0
        rule = "must be given where there is no ridge"
        require(good, _CALL, "mu", mu, rule, "give h's strong convexity, or ridge=1e-3")
        if mu is not None and not callable(mu):
            good = _at_least_zero(mu) and mu + ridge > 0
            require(good, _CALL, "mu", mu, "must be finite and above 0", "or give a ridge")
        constants = {
            "upper_smoothness": _as_number(upper_smoothness),
            "jacobian_norm": _as_number(jacobian_norm),
            "inverse_hessian_lipschitz": _as_number(inverse_hessian_lipschitz),
            "jacobian_lipschitz": _as_number(jacobian_lipschitz),
        }
        for name, value in constants.items():
            good = value is None or _at_least_zero(value)
            rule = "must be finite and at least 0"
            require(good, _CALL, name, value, rule, "leave it out if it is not known")
        self.upper, self.lower, self.mu, self.ridge = upper, lower, mu, float(ridge)
        self.upper_convex = upper_convex
        self.upper_smoothness: float | None = constants["upper_smoothness"]
        self.jacobian_norm: float | None = constants["jacobian_norm"]
        self.inverse_hessian_lipschitz: float | None = constants["inverse_hessian_lipschitz"]
        self.jacobian_lipschitz: float | None = constants["jacobian_lipschitz"]
        self.samples = samples

    @property
    def certified(self) -> bool:
        """Whether the bound on a hypergradient's error is certain."""
        known = (
            self.upper_smoothness,
            self.inverse_hessian_lipschitz,
            self.jacobian_lipschitz,
        )
        return all(constant is not None for constant in known)

    def strong_convexity(self, theta: Any) -> float:
        """Return mu at `theta`, the ridge included; not finite where `mu` overflows there.

        Raises:
            ValueError: if `mu` as a function gives no number, or one not above 0.
        """
        given = _as_number(self.mu(theta) if callable(self.mu) else self.mu)
        good = given is None or is_number(given)
        rule = "must be a number, or a function of theta that returns one"
        require(good, _CALL, "mu", given, rule, "write float(...)")
        mu = (0.0 if given is None else float(given)) + self.ridge
        rule = "must be above 0 at every theta"
        require(not mu <= 0, _CALL, "mu", mu, rule, "add ridge=1e-3, so that it cannot vanish")
        return mu


def _as_number(value: Any) -> Any:
    """Return a tensor of one number as a float, and anything else as it is."""
    one = isinstance(value, Tensor) and value.numel() == 1
    return float(value.detach()) if one else value


def _at_least_zero(value: object) -> bool:
    return is_number(value) and 0 <= value < math.inf
