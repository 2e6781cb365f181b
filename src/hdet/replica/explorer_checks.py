"""What `Explorer` refuses: arguments out of range, and checkpoints that do not fit."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..errors import require, where
from .dimensions import Dimension, Request
from .held_schedule import HeldSchedule
from .state_checks import ENSEMBLE, require_entries

_CALL = "Explorer"


def _entries(kind: type) -> dict[str, Any]:
    return dict.fromkeys(field.name for field in fields(kind))


_HELD = _entries(HeldSchedule)
# What a state must hold; a dictionary stands for one inside it.
_STATE: dict[str, Any] = {
    "format": None,
    "step": None,
    "schedule": {"scheduler": None, "groups": None, "wrapped": None},
    "exploration": None,
    "averaged": None,
    "ensemble": ENSEMBLE,
}


def check_arguments(
    optimizer: object,
    scheduler: object,
    sync_every: int,
    warmup_steps: int,
    probe: object,
    probe_mode: str,
) -> None:
    """Raise for an argument that breaks its rule; see `Explorer`.

    Raises:
        TypeError: if the optimizer or scheduler is none.
        ValueError: for anything else.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{where()}{type(optimizer).__name__} is not an Optimizer")
    if isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
        require(
            scheduler.optimizer is optimizer,
            _CALL,
            "scheduler",
            type(scheduler).__name__,
            "must have been made for the same optimizer",
            "make it with the optimizer given here",
        )
    elif scheduler is not None and not callable(scheduler):
        raise TypeError(
            f"{where()}`{_CALL}(scheduler=...)` takes a torch scheduler, a callable of the "
            f"step or None, and got {type(scheduler).__name__}."
        )
    for name, value, least in (
        ("sync_every", sync_every, 1),
        ("warmup_steps", warmup_steps, 0),
    ):
        require(
            isinstance(value, int) and not isinstance(value, bool) and value >= least,
            _CALL,
            name,
            value,
            f"must be a whole number of at least {least}",
            "count optimizer steps",
        )
    require(
        probe is None or callable(probe),
        _CALL,
        "probe",
        probe,
        "must be a callable without arguments",
        "make one with hdet.probe(model, loader, loss)",
    )
    require(
        probe_mode in ("eval", "train"),
        _CALL,
        "probe_mode",
        probe_mode,
        'must be "eval" or "train"',
        'leave it out for "eval"',
    )


def collect(requests: Sequence[Request], optimizer: Optimizer) -> list[Dimension]:
    """Return all dimensions that are asked for, with names made unique.

    Raises:
        ValueError: if a request is none, or two ask for the same thing.
    """
    require(
        not isinstance(requests, Request),
        _CALL,
        "explore",
        "one request",
        "must be a list of requests",
        "put it into brackets: explore=[hdet.lr()]",
    )
    found: list[Dimension] = []
    for request in requests:
        require(
            isinstance(request, Request),
            _CALL,
            "explore",
            getattr(request, "__name__", request),
            "must hold the result of hdet.lr(), hdet.weight_decay(), hdet.betas() or "
            "hdet.attribute(...)",
            "call the function: hdet.lr() rather than hdet.lr",
        )
        found += request.dimensions(optimizer)
    names = [d.name for d in found]
    twice = sorted({name for name in names if names.count(name) > 1 and "/" in name})
    require(
        not twice,
        _CALL,
        "explore",
        twice,
        "must name every hyperparameter once",
        "take one of the requests out, or give each its own `groups`",
    )
    # Attributes of different modules may share a name: the order tells them apart.
    return [
        d if names.count(d.name) == 1 else _numbered(d, names[:place].count(d.name))
        for place, d in enumerate(found)
    ]


def _numbered(dimension: Dimension, number: int) -> Dimension:
    return Dimension(**{**vars(dimension), "name": f"{dimension.name}#{number}"})


def check_state(
    state: dict[str, Any],
    groups: int,
    scheduler: str,
) -> None:
    """Raise a `ValueError` if a checkpoint is damaged or of something else.

    Args:
        state: what is to be loaded.
        groups: number of parameter groups.
        scheduler: kind of the wrapped scheduler.
    """
    require_entries(state, _STATE, _CALL)
    require(
        state["format"] == 1,
        f"{_CALL}.load_state_dict",
        "state_dict",
        f"format {state['format']}",
        "must come from Explorer.state_dict() of this version",
        "load it with the version that saved it",
    )
    for place, held in enumerate(state["schedule"]["groups"]):
        require_entries({f"group {place}": held}, {f"group {place}": _HELD}, _CALL)
    require(
        len(state["schedule"]["groups"]) == groups,
        f"{_CALL}.load_state_dict",
        "state_dict",
        len(state["schedule"]["groups"]),
        f"must be of {groups} parameter groups",
        "make the optimizer as it was when the state was saved",
    )
    require(
        state["schedule"]["scheduler"] == scheduler,
        f"{_CALL}.load_state_dict",
        "state_dict",
        state["schedule"]["scheduler"],
        f"must be of the scheduler wrapped here, {scheduler}",
        "wrap the scheduler that was wrapped when the state was saved",
    )


def nothing_finite_message(known: bool) -> str:
    """Return what to say at a sync without any finite loss.

    Args:
        known: whether losses were given, or there is a probe.
    """
    what = "no replica's loss is finite, and nothing was averaged yet to return to"
    remedy = "lower the learning rate by a factor of 100 and begin again"
    if not known:
        what = "has been given no loss by any replica, and has no probe"
        remedy = "call `step(loss)` with this replica's own loss, or give it a `probe`"
    return f"{where()}`{_CALL}`: {what}: {remedy}."


def confounded_message(dimensions: int, replicas: int) -> str:
    """Return what to say where there are too few replicas for what is explored."""
    return (
        f"{where()}`{_CALL}` explores {dimensions} hyperparameters with {replicas} replicas, "
        f"which cannot tell them apart: what one does is shared out among them, and they move "
        f"slowly. Explore at most {max(replicas - 2, 1)}."
    )


def never_finite_message(times: int) -> str:
    """Return what to say where returning to the averaged weights does not help."""
    return (
        f"{where()}`{_CALL}`: no replica was finite at {times} syncs in a row, each time after "
        f"a return to the averaged weights. Look for bad data, clip gradients, or load the "
        f"last checkpoint and lower the learning rate."
    )


def new_level_message(note: str) -> str:
    """Return what to say where a new level of the loss was accepted for the first time."""
    return (
        f"{where()}`{_CALL}`: {note}, and training goes on from there. Nothing is to be done "
        f"where the data or the loss have changed; else load a checkpoint from before."
    )
