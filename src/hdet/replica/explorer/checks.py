"""What `Explorer` refuses, and what it warns of: arguments, and runs that are too short."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from ...errors import require, require_choice, require_whole, where
from ..ensemble.groups import Replicas
from ..ensemble.setup_checks import unwrapped
from .dimensions import Dimension, Request

_CALL = "Explorer"
SEARCH = 60  # optimizer steps that a search takes, about, up to its last warm-up
WARMUP = 40  # of that warm-up where the schedule falls; twice as many where it does not
_SEARCHES = 4  # how many times as long a run should be
_SYNCS = 10


def check_arguments(
    optimizer: object,
    scheduler: object,
    sync_every: int,
    warmup_steps: int,
    probe: object,
    probe_mode: str,
    seed: object,
    mode: str,
    freeze_after: object,
    on_sync: object,
    log: object,
) -> None:
    """Raise for an argument of `Explorer` that breaks its rule.

    Raises:
        TypeError: if the optimizer is not an optimizer, or the scheduler not a scheduler.
        ValueError: for anything else.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{where()}{type(optimizer).__name__} is not an Optimizer")
    if isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
        _check_scheduler(scheduler, optimizer)
    elif scheduler is not None and not callable(scheduler):
        raise TypeError(
            f"{where()}`{_CALL}(scheduler=...)` takes a torch scheduler, a callable of the "
            f"step or None, and got {type(scheduler).__name__}."
        )
    require_whole(_CALL, "sync_every", sync_every, "count optimizer steps", low=1)
    require_whole(_CALL, "warmup_steps", warmup_steps, "count optimizer steps")
    good = probe is None or callable(probe)
    remedy = "make one with hdet.probe(model, loader, loss)"
    require(good, _CALL, "probe", probe, "must be a callable without arguments", remedy)
    require(isinstance(seed, int), _CALL, "seed", seed, "must be a whole number", "try 0")
    require_choice(
        _CALL, "probe_mode", probe_mode, ("eval", "train"), 'leave it out for "eval"'
    )
    require_choice(_CALL, "mode", mode, ("tune", "observe"), 'leave it out for "tune"')
    if freeze_after is not None:
        remedy = "count optimizer steps, or leave it out to freeze never"
        require_whole(_CALL, "freeze_after", freeze_after, remedy, low=1)
    good = on_sync is None or callable(on_sync)
    rule = "must be a callable that takes the Explorer"
    require(good, _CALL, "on_sync", on_sync, rule, "give a function, or leave it out")
    good = log is None or (isinstance(log, str | Path) and not Path(log).is_dir())
    require(good, _CALL, "log", log, "must be the path of a file", 'try log="runs/x.jsonl"')


def _check_scheduler(scheduler: LRScheduler | ReduceLROnPlateau, optimizer: Optimizer) -> None:
    def rule(holds: bool, value: str, must: str, remedy: str) -> None:
        require(holds, _CALL, "scheduler", value, must, remedy)

    name = type(scheduler).__name__
    rule(
        unwrapped(scheduler.optimizer, _CALL) is optimizer,
        name,
        "must have been made for the same optimizer",
        "make it with the optimizer given here",
    )
    rule(
        not isinstance(scheduler, ReduceLROnPlateau) or scheduler.mode == "min",
        'ReduceLROnPlateau(mode="max")',
        "must have mode='min', since it is given the replicas' mean loss",
        "use mode='min', or step it yourself beside Explorer(optimizer) with your metric",
    )
    rule(
        not getattr(scheduler, "_exploring", False) and name != _CALL,
        name,
        "must not explore by itself",
        "wrap a plain scheduler of torch",
    )


def require_model(probe: object, model: object, replicas: Replicas) -> None:
    """Raise a `ValueError` where a probe needs the model, and it is not given."""
    good = probe is None or model is not None or not replicas.inner
    rule = "must be given with a probe where a replica is several processes"
    remedy = "pass the module that the probe calls, or the probe would see older weights"
    require(good, _CALL, "model", None, rule, remedy)


def refuse_other_groups(made: int, optimizer: Optimizer) -> None:
    """Raise a `ValueError` if parameter groups were added to the optimizer, or removed."""
    now = len(optimizer.param_groups)
    if now != made:
        raise ValueError(
            f"{where()}`{_CALL}` was made for {made} parameter groups and the optimizer "
            f"now has {now}: add groups before making it."
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
        d if names.count(d.name) == 1 else _numbered(d, names[:index].count(d.name))
        for index, d in enumerate(found)
    ]


def _numbered(dimension: Dimension, number: int) -> Dimension:
    return Dimension(**{**vars(dimension), "name": f"{dimension.name}#{number}"})


def nothing_finite_message(known: bool) -> str:
    """Return what to say without any finite loss; `known` if losses or a probe were given."""
    what = "no replica's loss is finite, and there are no averaged weights yet to return to"
    remedy = "lower the learning rate by a factor of 100 and begin again"
    if not known:
        what = "has been given no loss by any replica, and has no probe"
        remedy = "call `step(loss)` with this replica's own loss, or give it a `probe`"
    return f"{where()}`{_CALL}`: {what}: {remedy}."


def confounded_message(dimensions: int, replicas: int) -> str:
    """Return what to say where there are too few replicas for what is explored."""
    return (
        f"{where()}`{_CALL}` explores {dimensions} hyperparameters with {replicas} replicas, "
        f"which cannot tell their effects apart: each gets a share of all effects, and moves "
        f"slowly. Explore at most {max(replicas - 2, 1)}."
    )


def never_finite_message(times: int) -> str:
    """Return what to say where returning to the averaged weights does not help."""
    return (
        f"{where()}`{_CALL}`: no replica was finite at {times} syncs in a row, each time after "
        f"a return to the averaged weights. Look for bad data, clip gradients, or load the "
        f"last checkpoint and lower the learning rate."
    )


def overwritten_message(name: str) -> str:
    """Return what to say where other code sets an explored value at every step."""
    return (
        f"{where()}`{_CALL}`: other code sets `{name}` at every step and overwrites the "
        f"replicas' own values. They all train with the same value, so nothing can be found. "
        f'Scale it instead, as in `group["lr"] *= factor`; or give the schedule to Explorer, '
        f"as in `Explorer(optimizer, lambda step: ...)`; or take it out of `explore`."
    )


def schedule_length(scheduler: object) -> int | None:
    """Return how many steps a schedule has; None if it does not say."""
    if isinstance(scheduler, OneCycleLR):
        return int(scheduler.total_steps)
    if isinstance(scheduler, CosineAnnealingLR):
        return int(scheduler.T_max)
    if isinstance(scheduler, PolynomialLR):
        return int(scheduler.total_iters)
    if isinstance(scheduler, SequentialLR):
        last = schedule_length(scheduler._schedulers[-1])
        return None if last is None else int(scheduler._milestones[-1]) + last
    return None


def warn_of_short_schedule(
    scheduler: object, sync_every: int, warmup_steps: int, searches: bool
) -> None:
    """Warn where the schedule is known to be too short to find anything."""
    length = schedule_length(scheduler)
    if length is None:
        return
    why = why_too_short(length, sync_every, warmup_steps, searches)
    if why is not None:
        warnings.warn(f"{where()}{why}", stacklevel=3)


def why_too_short(
    length: int, sync_every: int, warmup_steps: int, searches: bool
) -> str | None:
    """Return why a schedule of `length` steps finds nothing, with a remedy; None if it may.

    A run should be several times as long as its search for the rate, if there is one
    (`searches`). And a value moves by at most a tenth at a sync, so it takes ten of them after
    the search and its warm-up.
    """
    room = max(length - warmup_steps, 0)
    if searches and room < _SEARCHES * SEARCH:
        return (
            f"`{_CALL}(search=True)` looks for the learning rate for about {SEARCH} "
            f"optimizer steps and then warms up for {WARMUP} to {2 * WARMUP}, and the schedule "
            f"of {length} steps leaves {room}: it should be at least {_SEARCHES} times as long "
            f"as the search. Train for longer, or use search=False."
        )
    syncs = (room - (SEARCH + WARMUP) * searches) // sync_every
    if syncs < _SYNCS:
        moves = (
            "too few to adjust what the search has found"
            if searches
            else "too few to find anything"
        )
        return (
            f"`{_CALL}(sync_every={sync_every})` has fewer than {_SYNCS} syncs: the "
            f"schedule of {length} steps leaves room for {syncs}, {moves}. "
            f"Use sync_every={good_interval(length)}, about 1 % of the run."
        )
    return None


def good_interval(length: int) -> int:
    """Return the optimizer steps between two syncs that are about 1 % of a run's `length`."""
    return max(length // 100, 1)


def new_level_message(note: str) -> str:
    """Return what to say where a new level of the loss was accepted for the first time."""
    return (
        f"{where()}`{_CALL}`: {note}, and training goes on from there. If the data or the loss "
        f"have changed, this is as it should be; if not, load a checkpoint from before."
    )
