"""Do all replicas have the same settings? Compared by a digest, and named where they differ.

Every rank computes for itself which replica has which value and what a sync does. So the facts
that this is computed from must be the same everywhere: settings, seed, what is explored, the
state of the search. A rank with other facts would train on unnoticed with values of its own.

A digest of them, 32 bits, goes with the numbers that the replicas exchange anyway. Where two
differ, all ranks know, and only then exchange the facts themselves to say what differs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch.distributed as dist
from torch import Tensor

from ...errors import where
from .groups import Replicas, group_ranks

Facts = dict[str, Any]


def digest(facts: Facts) -> int:
    """Return 32 bits of a hash, the same in every process; their float64 sums are exact."""
    text = repr(sorted((key, _plain(value)) for key, value in facts.items()))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def refuse_difference(replicas: Replicas, name: str, facts: Facts, moment: str) -> NoReturn:
    """Raise a `ValueError` on every rank that names the `facts` that differ. Collective."""
    mine = in_words(facts)
    found: list[str] = []
    for group in (replicas.group, *replicas.inner):
        everyone: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyone, mine, group=group)
        found += differences(group_ranks(group), everyone)
    what = "; ".join(dict.fromkeys(found)) or "settings of other ranks than this one's"
    raise ValueError(
        f"{where()}`{name}`: the replicas do not agree at {moment}. What differs: {what}. Make "
        f"it with the same arguments on every rank, and load the same checkpoint everywhere."
    )


def in_words(facts: Facts) -> dict[str, str]:
    """Return facts as texts, which are the same in every process where the facts are."""
    return {key: repr(_plain(value)) for key, value in facts.items()}


def differences(ranks: Sequence[int], everyone: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what differs and on which rank, as in "seed (1 on rank 3; 0 on the others)".

    Args:
        ranks: the processes.
        everyone: the facts of each, in words.
    """
    found = []
    for key in dict.fromkeys(key for facts in everyone for key in facts):
        said = [facts.get(key, "missing") for facts in everyone]
        if len(set(said)) > 1:
            found.append(f"{key} ({_who_says_what(ranks, said)})")
    return found


def public_numbers(state: Any) -> Any:
    """Return the settings and the step in a scheduler's state, without its rates."""
    if isinstance(state, list):
        return [public_numbers(inner) for inner in state]
    if isinstance(state, Mapping):
        kept = ("_schedulers", "_milestones", "_schedule_phases")
        return {
            str(key): public_numbers(value)
            for key, value in state.items()
            if not str(key).startswith("_") or key in kept
        }
    return _plain(state)


def _plain(value: Any) -> Any:
    """Return numbers, text and lists as they are; of anything else the name of its type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(inner) for inner in value]
    if isinstance(value, Tensor):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__


def _who_says_what(ranks: Sequence[int], said: Sequence[str]) -> str:
    """Return each answer with its ranks, as in "5 on rank 1; 10 on the others"."""
    answers = sorted(set(said), key=said.count)
    parts = []
    for answer in answers[:-1][:3]:
        who = [str(rank) for rank, text in zip(ranks, said, strict=True) if text == answer]
        parts.append(f"{_short(answer)} on rank {', '.join(who[:8])}")
    return "; ".join([*parts, f"{_short(answers[-1])} on the others"])


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
