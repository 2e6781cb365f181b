"""Broken copies of a state, one accident each, for tests of what loads it.

    for what, bad in mutations(good):
        with pytest.raises(ValueError): thing.load_state_dict(bad)

A mutation may leave a state that is still good, such as a rate of 0.5 in place of 0.3: what
loads it must refuse it in words, or go on as if it were its own.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# What may stand anywhere instead of what belongs there.
_VALUES: dict[str, Any] = {
    "None": None,
    "text": "3",
    "bytes": b"x",
    "nan": math.nan,
    "inf": math.inf,
    "-1": -1,
    "0.5": 0.5,
    "1e308": 1e308,
    "2**40": 2**40,
    "10**400": 10**400,
    "empty list": [],
    "empty dictionary": {},
    "a tensor of NaN": torch.tensor(math.nan),
    "a 2 x 3 tensor": torch.ones(2, 3),
}


def mutations(state: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield descriptions and broken copies of a state, which stays as it is.

    Args:
        state: nested dictionaries, lists and tuples of numbers, text and tensors.
        at: where it stands, for the descriptions.
    """
    for what, value in _VALUES.items():
        yield f"{at or 'all'} := {what}", copy.deepcopy(value)
    for what, value in _of_its_kind(state):
        yield f"{at or 'all'} := {what}", value
    keys = list(state) if isinstance(state, dict) else range(_length(state))
    for key in keys:
        path = f"{at}.{key}" if at else str(key)
        yield f"without {path}", _changed(state, key, None)
        for what, value in mutations(state[key], path):
            # Bound here: the function is called before the next turn.
            yield what, _changed(state, key, lambda value=value: value)


def same(one: Any, other: Any) -> bool:
    """Return whether two states are equal bit for bit, NaN to NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = (one.shape, one.dtype, one.layout) == (other.shape, other.dtype, other.layout)
        if not alike or one.is_meta or other.is_meta:
            return alike and one.is_meta == other.is_meta
        a, b = one.to_dense(), other.to_dense()
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


def _of_its_kind(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what is nearly right: of the same type, and of another content."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield "filled with NaN", torch.full_like(value, math.nan)
            yield "filled with inf", torch.full_like(value, math.inf)
        yield "of integers", value.to(torch.int8)
        yield "of another type", value.to(torch.float16)
        yield "complex", torch.complex(value.float(), value.float())
        yield "of one more dimension", value[None].clone()
        yield "longer", torch.cat([value.reshape(-1), value.reshape(-1)[:1]])
        yield "without data", value.to("meta")
        yield "sparse", value.reshape(-1).to_sparse()
    elif isinstance(value, dict):
        yield (
            "with numbers for keys",
            {i: copy.deepcopy(v) for i, v in enumerate(value.values())},
        )
    elif isinstance(value, (list, tuple)):
        yield "longer", type(value)([*copy.deepcopy(list(value)), 1.0])
        yield "nested", type(value)([copy.deepcopy(value)])
    elif isinstance(value, bool):
        yield "negated", not value
    elif isinstance(value, (int, float)):
        yield "of the other sign", -value
        yield "in a tensor", torch.tensor(float(value))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, tuple)) else 0


def _changed(state: Any, key: Any, value: Callable[[], Any] | None) -> Any:
    """Return a deep copy with another value at a key, or without it."""
    made = dict(state) if isinstance(state, dict) else list(state)
    if value is None:
        del made[key]
    else:
        made[key] = None
    made = copy.deepcopy(made)
    if value is not None:
        made[key] = value()
    return made if isinstance(state, dict) else type(state)(made)
