"""Checkpoints: parsed whole into fresh values, and only then assigned.

What `load_state_dict` is given may be damaged, from another run, or from another version. So
every class of the library reads its state through `Entries`: each entry is asked for by name,
type and range, and the first that does not fit raises a `ValueError`. All of a state is read
before anything is assigned, so a refused state changes nothing.

    entries = Entries(state, "GlobalRate")
    rate = entries.number("rate", low=self._low, high=self._high)
    previous = entries.optional("previous", entries.tensor, shape=(self._size,))
    self._rate, self._previous = rate, previous      # nothing can fail any more

torch loads with the first tensor that is read: states of plain numbers need none.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .errors import Limits, is_whole, short, where

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

# The largest count that a float64 still holds exactly: what a collective can carry.
MOST = 2**53

# No learning rate lies above it: a larger one in a checkpoint is damage.
LARGEST_RATE = 1e6


class Entries:
    """The entries of one state, or of a dictionary inside it.

    Args:
        state: what is to be loaded.
        name: the public name of what loads it, such as `Explorer`.
        call: what was called, for errors; default "`name.load_state_dict`".
        source: where a good state comes from; default "`name.state_dict()`".
        path: where in the whole state this dictionary is, as in "ensemble.interval.".

    Raises:
        ValueError: unless `state` is a dictionary whose keys are strings.
    """

    def __init__(
        self,
        state: Any,
        name: str,
        *,
        call: str | None = None,
        source: str | None = None,
        path: str = "",
    ) -> None:
        self._name = name
        self._call = call or f"`{name}.load_state_dict`"
        self._source = source or f"`{name}.state_dict()`"
        self._path = path
        self._remedy = (
            f"it is damaged or belongs to something else; give what {self._source} returned"
        )
        if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
            self.refuse("", state, "must be a dictionary with names for keys")
        self._state = state

    def refuse(self, key: str, value: object, rule: str, remedy: str | None = None) -> NoReturn:
        """Raise the `ValueError` that names entry, rule, value and remedy.

        Args:
            key: of the entry; "" for the whole dictionary.
            value: what was found there.
            rule: what it must be, as in "must be at least 1".
            remedy: what to do; by default, to give what `state_dict` returned.
        """
        entry = f"{self._path}{key}".rstrip(".")
        what = f"entry `{entry}`" if entry else "a state"
        raise ValueError(
            f"{where()}{self._call} got {what} = {short(value, 60)}, which {rule}: "
            f"{remedy or self._remedy}."
        )

    def raw(self, key: str) -> Any:
        """Return an entry as it is; raise a `ValueError` if it is missing."""
        if key not in self._state:
            raise ValueError(
                f"{where()}{self._call} got a state without `{self._path}{key}`: "
                f"{self._remedy}."
            )
        return self._state[key]

    def has(self, key: str) -> bool:
        """Return whether there is such an entry."""
        return key in self._state

    def keys(self) -> list[str]:
        """Return the names of all entries, in order."""
        return list(self._state)

    def whole(self) -> dict[str, Any]:
        """Return all entries as they are, for what reads them itself."""
        return dict(self._state)

    def format(self, *known: int) -> int:
        """Return the entry `format`, which must be one of `known`."""
        value = self.raw("format")
        if not is_whole(value) or value not in known:
            formats = " or ".join(map(str, known))
            self.refuse(
                "format",
                value,
                f"must be {formats}, which this version reads",
                f"load it with the version of hdet that saved it, or give what {self._source} "
                f"returned",
            )
        return value

    def optional(self, key: str, read: Callable[..., T], **rules: Any) -> T | None:
        """Return `read(key, **rules)`, a method of this object; None if the entry is None."""
        return None if self.raw(key) is None else read(key, **rules)

    def boolean(self, key: str) -> bool:
        """Return an entry that is True or False."""
        value = self.raw(key)
        if not isinstance(value, bool):
            self.refuse(key, value, "must be True or False")
        return value

    def text(self, key: str, choices: Sequence[str] | None = None) -> str:
        """Return an entry that is a string, one of `choices` if they are given."""
        value = self.raw(key)
        if not isinstance(value, str):
            self.refuse(key, value, "must be text")
        if choices is not None and value not in choices:
            self.refuse(key, value, f"must be one of {', '.join(choices)}")
        return value

    def integer(self, key: str, low: int = 0, high: int = MOST) -> int:
        """Return an entry that is a whole number from `low` to `high`."""
        value = self.raw(key)
        if not is_whole(value):
            self.refuse(key, value, "must be a whole number")
        if not low <= value <= high:
            self.refuse(key, value, f"must lie in [{low}, {high}]")
        return int(value)

    def integers(
        self, key: str, length: int | None = None, low: int = 0, high: int = MOST
    ) -> list[int]:
        """Return an entry that is a list of whole numbers, `length` of them if it is given."""
        inside = self.listed(key, length)
        return [inside.integer(index, low, high) for index in inside._state]

    def number(
        self, key: str, low: float = -math.inf, high: float = math.inf, **limits: float
    ) -> float:
        """Return an entry that is a number within limits, those of `errors.Limits`."""
        value, allowed = self.raw(key), Limits(low, high, **limits)
        if value not in allowed:
            self.refuse(key, value, str(allowed))
        return float(value)

    def numbers(
        self,
        key: str,
        length: int | None = None,
        low: float = -math.inf,
        high: float = math.inf,
        **limits: float,
    ) -> list[float]:
        """Return an entry that is a list of numbers; the rules are those of `number`."""
        inside = self.listed(key, length)
        return [inside.number(index, low, high, **limits) for index in inside._state]

    def items(self, key: str, length: int | None = None) -> list[Any]:
        """Return an entry that is a list or tuple, with its items as they are."""
        value = self.raw(key)
        if not isinstance(value, list | tuple):
            self.refuse(key, value, "must be a list")
        if length is not None and len(value) != length:
            self.refuse(key, value, f"must have {length} items, and has {len(value)}")
        return list(value)

    def entries(self, key: str) -> "Entries":
        """Return an entry that is a dictionary with names for keys."""
        return self._inside(key, self.raw(key))

    def rows(self, key: str, length: int | None = None) -> "Iterator[Entries]":
        """Yield the items of an entry that is a list of dictionaries."""
        inside = self.listed(key, length)
        return map(inside.entries, inside._state)

    def listed(self, key: str, length: int | None = None) -> "Entries":
        """Return the items of a list or tuple as entries of their own: "0", "1" and so on."""
        return self._inside(key, {str(i): v for i, v in enumerate(self.items(key, length))})

    def tensor(
        self,
        key: str,
        shape: Sequence[int | None] | None = None,
        dtype: "torch.dtype | None" = None,
        *,
        finite: bool = True,
    ) -> "Tensor":
        """Return an entry that is a dense tensor with data; not a copy.

        Args:
            key: its name.
            shape: the shape it must have; None in it stands for any length. Default any.
            dtype: the type it must have. Default any real floating-point type.
            finite: whether NaN and infinities are refused.
        """
        return self.check_tensor(key, self.raw(key), shape, dtype, finite=finite)

    def check_tensor(
        self,
        key: str,
        value: Any,
        shape: Sequence[int | None] | None = None,
        dtype: "torch.dtype | None" = None,
        *,
        finite: bool = True,
    ) -> "Tensor":
        """Return `value`, an entry or this process's part of it, checked as by `tensor`."""
        import torch
        from torch import Tensor

        if not isinstance(value, Tensor):
            self.refuse(key, value, "must be a tensor")
        found = f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
        if value.layout != torch.strided or value.is_meta:
            self.refuse(key, found, "must be dense and have data")
        if shape is not None and not (
            len(shape) == value.ndim
            and all(a is None or a == b for a, b in zip(shape, value.shape, strict=True))
        ):
            self.refuse(key, found, f"must be of shape {tuple(shape)}")
        if value.dtype != dtype if dtype is not None else not value.is_floating_point():
            self.refuse(key, found, f"must be of {dtype or 'a real floating-point type'}")
        if finite and value.is_floating_point() and not bool(value.isfinite().all()):
            self.refuse(key, found, "must be finite, and has NaN or infinity")
        return value.detach()

    def tensors(self, key: str, *, finite: bool = True) -> "list[Tensor]":
        """Return an entry that is a list of tensors; the rules are those of `tensor`."""
        inside = self.listed(key)
        return [inside.tensor(index, finite=finite) for index in inside._state]

    def _inside(self, key: str, value: Any) -> "Entries":
        path = f"{self._path}{key}."
        return Entries(value, self._name, call=self._call, source=self._source, path=path)
