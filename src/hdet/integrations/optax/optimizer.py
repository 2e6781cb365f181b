"""An optax optimizer whose learning rate is set at every step, and what can't be one.

`optax.inject_hyperparams` keeps the rate in the optimizer's state, where each replica has its
own. When the weights go back to a point of the climb, moments that an update is divided by
begin anew (see `hdet.replica.ensemble.restart`): each state of optax that has some, such as
`ScaleByAdamState`, becomes that of a fresh `init`. Momentum alone, as in `TraceState`, stays if
it is finite.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .replicas import is_float

Make = Callable[[Any], optax.GradientTransformation]

# Fields of optax's states that an update is divided by.
_SECOND = {
    *("nu", "nu_max", "v_row", "v_col", "sum_of_squares", "grad_sum_sq"),
    *("e_g", "n", "exp_avg_sq"),
}
_OWN_RATE = (
    *("DAdaptAdamWState", "ProdigyState", "DoGState", "DoWGState", "COCOBState"),
    *("MechanicState", "MomoState", "MomoAdamState", "ReduceLROnPlateauState"),
    *("ScaleByBacktrackingLinesearchState", "ScaleByZoomLinesearchState"),
    *("ScaleByLBFGSState", "ScaleByRpropState"),
)
_OWN_WEIGHTS = ("ScheduleFreeState", "LookaheadState", "SAMState", "MadgradState")


def with_rate(make: Make, rate: float) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer whose rate `at_rate` sets, and which `rate` stands in for."""

    def build(learning_rate: Any) -> optax.GradientTransformation:
        return make(learning_rate)

    return optax.inject_hyperparams(build)(learning_rate=rate)


def at_rate(opt_state: Any, rate: jax.Array) -> Any:
    """Return the optimizer's state with another learning rate."""
    old = opt_state.hyperparams["learning_rate"]
    rate = jnp.asarray(rate, dtype=old.dtype)
    return opt_state._replace(hyperparams={**opt_state.hyperparams, "learning_rate": rate})


def restarted(opt_state: Any, fresh: Any) -> Any:
    """Return the state with its second moments, and what goes with them, as in `fresh`.

    So are arrays that are not finite: momentum would never lose a NaN again.
    """

    def second(node: Any) -> bool:
        return isinstance(node, tuple) and bool(_SECOND & {*getattr(node, "_fields", ())})

    def choose(old: Any, new: Any) -> Any:
        if second(old):
            return new
        return jnp.where(jnp.isfinite(old).all(), old, new) if is_float(old) else old

    fresh = _of_the_types(opt_state, fresh)
    return jax.tree.map(choose, opt_state, fresh, is_leaf=second)


def begun_anew(opt_state: Any, fresh: Any) -> Any:
    """Return a fresh state, but with schedules of the user's own where they are."""

    def schedule(node: Any) -> bool:
        return getattr(node, "_fields", None) == ("count",)

    def choose(old: Any, new: Any) -> Any:
        return old if schedule(old) else new

    fresh = _of_the_types(opt_state, fresh)
    return jax.tree.map(choose, opt_state, fresh, is_leaf=schedule)


def _of_the_types(opt_state: Any, fresh: Any) -> Any:
    """Return a fresh state in the types of the old, which other gradients may have widened."""
    return jax.tree.map(
        lambda old, new: new.astype(old.dtype) if is_float(old) else new, opt_state, fresh
    )


def refuse_unfit(opt_state: Any) -> None:
    """Raise a `ValueError` for an optimizer that several rates would break.

    Args:
        opt_state: of a fresh `init`.

    Raises:
        ValueError: if it chooses its own rate, keeps weights of its own, or skips steps.
    """
    names: set[str] = set()
    jax.tree.map(
        lambda _: None, opt_state, is_leaf=lambda node: bool(names.add(type(node).__name__))
    )
    rules = (
        (
            _OWN_RATE,
            "chooses the length of its steps itself",
            "use adamw, sgd or the like",
        ),
        (_OWN_WEIGHTS, "keeps weights of its own", "use the optimizer inside it"),
        (
            ("MultiStepsState", "ApplyEvery"),
            "takes a step only now and then",
            "add the gradients up inside the function under `@explorer.jit`",
        ),
    )
    for known, why, remedy in rules:
        for name in sorted(names.intersection(known)):
            raise ValueError(
                f"`Explorer(make_optimizer=...)` makes an optimizer with {name}, which {why}: "
                f"{remedy}, or train without Explorer."
            )


def refuse_fixed_rate(
    optimizer: optax.GradientTransformationExtraArgs, params: Any, rate: float
) -> None:
    """Raise a `ValueError` for an optimizer whose steps do not depend on the rate.

    The second step is compared: a schedule of the user's own may begin with 0. Where that is 0
    too, nothing can be said.

    Args:
        optimizer: from `with_rate`.
        params: of one replica.
        rate: the largest of the run; the other that is tried is a thousandth of it.
    """
    low = rate / 1000

    @jax.jit  # one program for both, so that they differ by the rate alone
    def second_step(rate: jax.Array) -> list[jax.Array]:
        steps = ones = jax.tree.map(jnp.ones_like, params)
        opt_state = optimizer.init(params)
        for _ in range(2):
            steps, opt_state = optimizer.update(ones, at_rate(opt_state, rate), params)
        return jax.tree.leaves(steps)

    one, two = second_step(jnp.asarray(rate)), second_step(jnp.asarray(low))
    same = all(jnp.array_equal(a, b) for a, b in zip(one, two, strict=True))
    if same and any(map(jnp.any, one)):
        raise ValueError(
            f"`Explorer(make_optimizer=...)` makes an optimizer whose steps are the same at "
            f"the learning rates {rate:g} and {low:g}: it must use the rate that it is called "
            f"with, as optax.adamw does, and be without `optax.inject_hyperparams`, which "
            f"keeps the first one."
        )
