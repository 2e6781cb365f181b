"""Checks of arguments that several rules share; messages name rule, value and remedy."""

import math

import torch

from ..errors import require
from ..state import Entries


def require_gamma(call: str, gamma: float) -> None:
    """Raise a `ValueError` unless `gamma`, the width of a clip, is finite and >= 1."""
    require(
        gamma >= 1 and math.isfinite(gamma),
        call,
        "gamma",
        gamma,
        "must be finite and at least 1",
        "1 holds the rate where it starts",
    )


def require_rate(call: str, beta: float) -> None:
    """Raise a `ValueError` unless the learning rate `beta` is finite and positive."""
    require(
        beta > 0 and math.isfinite(beta),
        call,
        "beta",
        beta,
        "must be finite and above 0",
        "give the local learning rate that you would use without FedHyper",
    )


def require_same_length(a: torch.Tensor, b: torch.Tensor, call: str, name: str) -> None:
    """Raise a `ValueError` unless two flat vectors have one length."""
    require(
        a.shape == b.shape,
        call,
        name,
        tuple(a.shape),
        f"must be as long as before, {b.numel()}",
        "flatten the same parameters in the same order in every round",
    )


def read_ids(entries: Entries, key: str) -> list[int | str]:
    """Return an entry of a state that lists clients: ints and strings, each once."""
    ids = entries.items(key)
    if not all(isinstance(client, int | str) for client in ids):
        entries.refuse(key, ids, "must hold ints and strings alone")
    if len(set(ids)) < len(ids):
        entries.refuse(key, ids, "must hold each client once")
    return ids


def require_savable(call: str, client: object) -> None:
    """Raise a `ValueError` unless a client's id is an int or a string."""
    require(
        isinstance(client, int | str),
        call,
        "client",
        client,
        "must be an int or a string to be saved",
        "give clients as ints or strings",
    )


def require_finite(value: float, call: str, name: str) -> None:
    """Raise a `ValueError` unless a product of updates is finite."""
    require(
        math.isfinite(value),
        call,
        name,
        value,
        "has a product that is not finite",
        "leave out clients whose weights are not finite; nothing was changed",
    )
