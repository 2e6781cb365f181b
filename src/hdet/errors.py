"""Errors and argument checks that every part of the library shares.

A message names the argument, the rule, the value that broke it and the remedy, and,
where several processes run, says whose message it is: `[rank 2 of 8]`.
"""

import reprlib

import torch.distributed as dist


class MissingDataError(RuntimeError):
    """A data set that a task needs is not on this machine; the message says how to get it."""


def where() -> str:
    """Return `[rank 2 of 8] ` inside a process group, else an empty string. Local."""
    if dist.is_available() and dist.is_initialized():
        return f"[rank {dist.get_rank()} of {dist.get_world_size()}] "
    return ""


def require(
    holds: bool, call: str, argument: str, value: object, rule: str, remedy: str
) -> None:
    """Raise a `ValueError` unless `holds`.

    Args:
        holds: whether the rule is kept.
        call: the public name that was called, such as `OneCycleAutoLR`.
        argument: the argument's name.
        value: the value that was given.
        rule: what the argument must do, as in "must be at least 1".
        remedy: what to write instead.

    Raises:
        ValueError: if `holds` is false.
    """
    if not holds:
        raise ValueError(f"{where()}`{call}({argument}={short(value)})` {rule}: {remedy}.")


def short(value: object, most: int = 100) -> str:
    """Return a value as a part of one line: no whole data set, model or object.

    Args:
        value: what to show; arrays and tensors with more than one number by their shape.
        most: characters.
    """
    try:
        text = " ".join(_SHORT.repr(value).split())
    except Exception:
        # An object whose `repr` fails must not hide what is wrong with it.
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


class _Short(reprlib.Repr):
    """`reprlib`, which looks at no more of a value than it shows, with arrays by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 8
        self.maxstring = self.maxother = self.maxlong = 200

    def repr_instance(self, x: object, level: int) -> str:
        """Show any other object; the method of that name in `reprlib`."""
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple) and len(shape) > 0:
            kind, dtype = type(x).__name__, getattr(x, "dtype", "no dtype")
            return f"<{kind} of shape {tuple(shape)}, {dtype}>"
        return super().repr_instance(x, level)


_SHORT = _Short()
