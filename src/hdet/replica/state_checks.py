"""Whether a checkpoint holds what it must: asked before anything is changed by it."""

from typing import Any

from ..errors import where

# What `Ensemble.state_dict` holds.
ENSEMBLE: dict[str, Any] = {
    "syncs": None,
    "ever_given": None,
    "masked_total": None,
    "interval": {"shape": None, "place": None, "sums": None},
}


def require_entries(state: Any, expected: dict[str, Any], name: str) -> None:
    """Raise a `ValueError` unless a state has all entries.

    Args:
        state: what is to be loaded.
        expected: the entries that it must have; a dictionary stands for one inside it.
        name: the public name of what loads it.
    """
    lacking = _missing(state, expected)
    if lacking:
        raise ValueError(
            f"{where()}`{name}.load_state_dict` got a state without {lacking}: it is "
            f"damaged, or of another scheduler. Give what `{name}.state_dict()` returned."
        )


def _missing(state: Any, expected: dict[str, Any], path: str = "") -> list[str]:
    """Return the keys of `expected` that `state` lacks, as in `ensemble.interval.sums`."""
    if not isinstance(state, dict):
        return [path.rstrip(".") or "any entry"]
    lacking = []
    for key, inner in expected.items():
        if key not in state:
            lacking.append(f"{path}{key}")
        elif inner is not None:
            lacking += _missing(state[key], inner, f"{path}{key}.")
    return lacking
