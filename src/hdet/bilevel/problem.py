"""A bilevel problem: two callables, and what is known of their constants.

    min over theta of  f(theta) = mean over samples of g(x(theta))        upper level
    x(theta)        =  argmin over x of h(x, theta)                       lower level

h is mu-strongly convex in x and twice differentiable. The constants of Theorem 2.1 bound the
error of an inexact hypergradient; if one of them is missing, the error is not known.

Source: Salehi, Mukherjee, Roberts, Ehrhardt, arXiv 2308.10098, section 2.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..errors import is_number, require, require_number

_CALL = "Problem"


class Problem:
    """min over theta of upper(x), where x minimises lower(x, theta).

    Args:
        upper: g(x) as a scalar tensor; with `samples` one value per sample, [m]. It need not
            depend on every tensor of x.
        lower: h(x, theta) likewise. It must depend on every tensor of theta and, without a
            ridge, on every tensor of x: one that it never reads, or reads through `.detach()`,
            would look like a minimum, and is an error that names it. Autograd differentiates
            both levels twice, so they must consist of functions of torch that allow it. Neither
            sees the caller's `torch.no_grad()` or `torch.inference_mode()`; but clone tensors
            that were made in inference mode before a level computes with them.
        mu: the strong convexity of h in x, for every theta that may be visited: a number, or a
            function of theta. If it is too large, no accuracy holds; a curvature below it is
            an error as soon as one is seen. None if `ridge` provides it.
        ridge: gamma >= 0. Adds gamma/2 |x|^2 to h and gamma to its strong convexity. Needed
            where learned weights may vanish, or where h is only convex.
        upper_smoothness: L_g, the Lipschitz constant of g's gradient for one sample; 1 for
            g = |x - x*|^2 / 2. None estimates it from the curvature of g, which is exact for
            quadratic g; nothing is certified then.
        upper_convex: whether g is convex, which makes its lower bound tighter (Remark 3.6).
        jacobian_norm: a bound on |J|, J = d^2 h / dx dtheta. None uses power iteration.
        inverse_hessian_lipschitz: L_{H^-1}, the Lipschitz constant in x of the inverse
            Hessian, for every theta that may be visited; 0 if h is quadratic in x.
        jacobian_lipschitz: L_J, that of J, likewise. It is 0 only if h is quadratic in x and
            theta jointly: the penalty sum(exp(theta) * x^2) / 2 is quadratic in x, and its L_J
            is the largest exp(theta). If it is too small, the bound does not hold.
        samples: whether the first dimension of every tensor of x counts samples, each with
            an x and a lower level of its own; theta is shared, and f is the mean.

    Raises:
        ValueError: if a level is not a function, a constant is out of range, or neither `mu`
            nor `ridge` is given.
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
            remedy = f"write {name}=lambda ...: a scalar tensor"
            require(callable(level), _CALL, name, level, "must be a function", remedy)
        self.upper, self.lower = upper, lower
        ridge, self.mu = _as_number(ridge), mu if callable(mu) else _as_number(mu)
        require_number(_CALL, "ridge", ridge, "try 1e-3", low=0)
        # NumPy's numbers do not multiply tensors that require a gradient.
        self.ridge = float(ridge)
        if self.mu is None:
            rule = "must be given if there is no ridge"
            remedy = "give the strong convexity of h, or ridge=1e-3"
            require(self.ridge > 0, _CALL, "mu", mu, rule, remedy)
        elif not callable(self.mu):
            limit = {"low": 0.0} if self.ridge > 0 else {"above": 0.0}
            require_number(_CALL, "mu", self.mu, "if it is not known, give a ridge", **limit)
        self.upper_smoothness = _constant("upper_smoothness", upper_smoothness)
        self.jacobian_norm = _constant("jacobian_norm", jacobian_norm)
        self.inverse_hessian_lipschitz = _constant(
            "inverse_hessian_lipschitz", inverse_hessian_lipschitz
        )
        self.jacobian_lipschitz = _constant("jacobian_lipschitz", jacobian_lipschitz)
        self.upper_convex, self.samples = upper_convex, samples

    @property
    def certified(self) -> bool:
        """Whether all constants of Theorem 2.1 are known, so that the error bound holds."""
        known = self.upper_smoothness, self.inverse_hessian_lipschitz, self.jacobian_lipschitz
        return all(constant is not None for constant in known)

    def strong_convexity(self, theta: Any) -> float:
        """Return the strong convexity of h at `theta`, the ridge included.

        Args:
            theta: a pytree of tensors.

        Returns:
            mu; not finite where `mu` overflows at that theta.

        Raises:
            ValueError: if `mu` as a function returns no number, or one that is not above 0.
        """
        given = _as_number(self.mu(theta) if callable(self.mu) else self.mu)
        rule = "must be a number, or a function of theta that returns one"
        require(given is None or is_number(given), _CALL, "mu", given, rule, "write float(...)")
        mu = (0.0 if given is None else float(given)) + self.ridge
        rule, remedy = "must be above 0 at every theta", "add ridge=1e-3 as a lower limit"
        require(not mu <= 0, _CALL, "mu", mu, rule, remedy)
        return mu


def _constant(name: str, value: Any) -> Any:
    """Return a constant as a number that is finite and at least 0, or None."""
    value = _as_number(value)
    if value is not None:
        require_number(_CALL, name, value, "leave it out if it is not known", low=0)
    return value


def _as_number(value: Any) -> Any:
    """Return a tensor of one number as a float, and anything else as it is."""
    one = isinstance(value, Tensor) and value.numel() == 1
    return float(value.detach()) if one else value
