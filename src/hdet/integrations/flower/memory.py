"""The memory of Flower's own strategies: saved, parsed, and restored after a failed round.

They have no state_dict. They carry momentum and moments from round to round in four attributes;
all of them assign new arrays, so that a reference is enough to go back to.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy

from ...state import Entries
from .model import GlobalModel

# Momentum, one array for each entry of the model, in its order; and Adam's, by name.
_LISTS, _NAMED, _NUMBERS = ("momentum_vector",), ("m_t", "v_t"), ("clipping_norm",)
_REMEMBERED = (*_LISTS, *_NAMED, *_NUMBERS)

Assign = Callable[[], None]
Shapes = dict[str, tuple[int, ...]]


def state_of(strategy: Any) -> dict[str, Any]:
    """Return the memory of a wrapped strategy and those within; see `Wrapper.state_dict`."""
    if hasattr(strategy, "state_dict"):
        return strategy.state_dict()
    state = {n: _plain(getattr(strategy, n)) for n in _REMEMBERED if hasattr(strategy, n)}
    if hasattr(strategy, "strategy"):
        state["strategy"] = state_of(strategy.strategy)
    return state


def parse_memory(strategy: Any, entries: Entries, shapes: Shapes | None) -> Assign:
    """Return a function that gives a strategy what `state_of` returned, without inner ones.

    `shapes` are those of the model's entries, if the state has them. A damaged state, or
    another strategy's, is a `ValueError`.
    """
    names = [name for name in _REMEMBERED if hasattr(strategy, name)]
    found = sorted(set(entries.keys()) - {"strategy"})
    if found != sorted(names):
        entries.refuse("", found, f"must be of {type(strategy).__name__}, with {sorted(names)}")
    values = {name: _parsed(entries, name) for name in names}
    for name in set(names) - set(_NUMBERS):
        if shapes is not None and _is_of_another(values[name], shapes):
            entries.refuse(name, values[name], "must have the shapes of the state's model")

    def assign() -> None:
        for name, value in values.items():
            setattr(strategy, name, value)

    return assign


def memory_of(strategy: Any) -> Assign:
    """Return a function that restores the present memory of a strategy and those within."""
    held = []
    while isinstance(strategy, Strategy):
        names = (*_REMEMBERED, "current_arrays")
        held += [(strategy, n, getattr(strategy, n)) for n in names if hasattr(strategy, n)]
        strategy = getattr(strategy, "strategy", None)

    def assign() -> None:
        for owner, name, value in held:
            setattr(owner, name, value)

    return assign


def require_same_model(strategy: Any, model: GlobalModel) -> None:
    """Raise a `ValueError` if a strategy remembers another model than the one it is given."""
    for name in (*_LISTS, *_NAMED):
        if _is_of_another(getattr(strategy, name, None), model.shapes):
            raise ValueError(
                f"{type(strategy).__name__} remembers `{name}` of a model with other entries "
                f"than the one it is to train: load the state of a run with this model, or "
                f"start without."
            )


def _is_of_another(memory: Any, shapes: Shapes) -> bool:
    """Return whether arrays that a strategy remembers are not those of such a model."""
    if isinstance(memory, dict):
        return bool(memory) and {n: np.shape(a) for n, a in memory.items()} != shapes
    return memory is not None and [np.shape(a) for a in memory] != list(shapes.values())


def _parsed(entries: Entries, name: str) -> Any:
    if name in _NUMBERS:
        return entries.number(name, above=0.0)
    if entries.raw(name) is None:
        return None
    if name in _LISTS:
        return [tensor.cpu().numpy().copy() for tensor in entries.tensors(name)]
    inside = entries.entries(name)
    names = inside.keys()
    return {key: inside.tensor(key).cpu().numpy().copy() for key in names}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    return value
