"""Errors and argument checks that every part of the library shares.

A message names the argument, the rule, the value that broke it and the remedy, and,
where several processes run, says whose message it is: `[rank 2 of 8]`.
"""

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
        raise ValueError(f"{where()}`{call}({argument}={value!r})` {rule}: {remedy}.")
