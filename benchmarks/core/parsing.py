"""What run folders hold is checked against the types of the dataclasses that were written.

A folder may be damaged, edited, or of another version: no number becomes text, no field is
made up, and no name leads out of the folder.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hdet.errors import require, short

# What every file system takes, Windows' too, whose devices are names in every folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def require_name(call: str, argument: str, name: str) -> None:
    """Raise a `ValueError` unless a name can be that of a folder within a run's."""
    good = _NAME.fullmatch(name) and not name.endswith(".") and not _DEVICES.fullmatch(name)
    rule = "is no name for a folder"
    remedy = "take letters, digits and . _ + -, at most 100, a letter or digit first"
    require(bool(good), call, argument, name, rule, remedy)


def require_names(
    call: str, argument: str, names: Sequence[str], known: Collection[str]
) -> None:
    """Raise a `ValueError` unless all names are known, there is one, and none comes twice."""
    good = 0 < len(names) == len(set(names)) and set(names) <= set(known)
    rule = "must name some that there are, each once"
    require(good, call, argument, names, rule, f"choose from {', '.join(known)}")


def parsed(kind: Any, value: Any, name: str = "it") -> Any:
    """Return a value that JSON held as what it was before.

    Args:
        kind: a dataclass; bool, int, float, str or None; a list, a dict or a union of them;
            or Any.
        value: from JSON.
        name: of the entry, for the error.

    Raises:
        ValueError: naming the entry, if it is of another type, or lacks a field or has one
            too many.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        (kind,) = (one for one in inner if one is not NoneType)
        return parsed(kind, value, name)
    if origin is list:
        _require(isinstance(value, list), name, value, "a list")
        return [parsed(inner[0], one, f"{name}[{k}]") for k, one in enumerate(value)]
    if origin is dict:
        _require(isinstance(value, dict), name, value, "an object")
        return {key: parsed(inner[1], one, f"{name}.{key}") for key, one in value.items()}
    if is_dataclass(kind):
        return _dataclass(kind, value, name)
    good = type(value) is kind or (kind is float and type(value) is int)
    _require(good, name, value, _WORDS.get(kind, str(kind)))
    return value


def _dataclass(kind: Any, value: Any, name: str) -> Any:
    _require(isinstance(value, dict), name, value, "an object")
    hints, inside = get_type_hints(kind), "" if name == "it" else f"{name}."
    needed = {
        one.name
        for one in fields(kind)
        if one.default is MISSING and one.default_factory is MISSING
    }
    if missing := sorted(needed - value.keys()):
        raise ValueError(f"{inside}{missing[0]} is missing")
    if unknown := sorted(value.keys() - hints.keys()):
        raise ValueError(f"{inside}{short(unknown[0])} is not known")
    return kind(**{key: parsed(hints[key], one, inside + key) for key, one in value.items()})


def _require(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {short(value)}, not {what}")


def nan_for_null(content: Any) -> Any:
    """Return the content of a whole file, with NaN for the nulls that stand for it."""
    if isinstance(content, dict):
        return {key: nan_for_null(value) for key, value in content.items()}
    if isinstance(content, list):
        return [nan_for_null(value) for value in content]
    return math.nan if content is None else content
