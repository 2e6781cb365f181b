"""The user's own run: whether it is supported, and what the search costs in its length.

The user's function makes the Explorer, and with that runs every check of the library. What is
left is to read from it what will be done.
"""

import math
import os
import sys
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..replica import Explorer
from ..replica.ensemble.contents import local_floats
from ..replica.ensemble.groups import group_ranks
from ..replica.explorer.checks import (
    SEARCH,
    WARMUP,
    good_interval,
    schedule_length,
    why_too_short,
)
from .findings import Finding, note, ok, wrong

_LIBRARIES = (Path(__file__).parents[1], Path(torch.__file__).parent)


def make(target: str) -> Explorer:
    """Return the Explorer that a function of the user's makes. As collective as it is.

    Args:
        target: "module:function"; the function takes no arguments.

    Raises:
        ValueError: if there is no such function, or it does not return an Explorer.
        Exception: whatever it raises.
    """
    module, _, name = target.partition(":")
    sys.path.insert(0, os.getcwd())
    with warnings.catch_warnings():
        # What Explorer warns of is a finding.
        warnings.filterwarnings("ignore", message=r".*`Explorer\(")
        function = getattr(import_module(module), name, None)
        if not callable(function):
            raise ValueError(f'{module} has no function "{name}": give module:function')
        made: Any = function()
    if not isinstance(made, Explorer):
        kind = type(made).__name__
        raise ValueError(f"{target} returned {kind}: it must return the hdet.Explorer")
    return made


def in_one_line(error: BaseException) -> str:
    """Return an error with the user's own line that led to it."""
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError | RuntimeError) or not text:
        text = f"{type(error).__name__}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not any(Path(f.filename).is_relative_to(p) for p in _LIBRARIES)]
    own = [f for f in own if "importlib" not in f.filename]
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else text


def outlook(
    explorer: Explorer, steps: int | None, wire: dict[str, Any] | None
) -> list[Finding]:
    """Return what an Explorer is going to do. Local.

    Args:
        explorer: as it is before its first step.
        steps: optimizer steps of the run; None for those of its schedule, if it tells.
        wire: a result of `machine.all_reduce`; None for one process.
    """
    schedule, search = explorer._schedule, explorer._exploration.search
    told = schedule_length(schedule._scheduler)
    length = told if steps is None else steps
    groups = len(explorer.optimizer.param_groups)
    names = [d.name for d in explorer._exploration.dimensions]
    kind = "constant rates" if schedule._scheduler is None else schedule.name
    many = f"{told} steps" if told else "does not tell its length"
    found = [
        ok("optimizer", f"{type(explorer.optimizer).__name__}, parameter groups: {groups}"),
        ok("scheduler", f"{kind}, {many}"),
        ok("explored", ", ".join(names)) if names else note("explored", "nothing"),
        _replicas(explorer),
    ]
    if search is None:
        words = "none: it takes a probe, a shared gradient and no warm-up, or search=True"
        found.append(note("search", words))
    else:
        words = f"about {SEARCH} optimizer steps{_share(SEARCH, length)}"
        found.append(ok("search", f"{words}, and {WARMUP} to {2 * WARMUP} of warm-up"))
        why = explorer._why_no_trials()
        words = f"none, so that the search ends with the climb, often too low: {why}"
        found.append(note("trials", words) if why else ok("trials", "possible"))
    every, warmup = explorer._interval, explorer._warmup
    words = f"every {every} optimizer steps{_share(every, length)}"
    if length is None:
        found.append(note("sync", f"{words}; about 1 % of the run is good: tell its --steps"))
    else:
        found.append(ok("sync", f"{words}; about 1 % is good: {good_interval(length)}"))
    if wire is not None:
        found.append(_cost(explorer, wire))
    short = length and why_too_short(length, every, warmup, search is not None)
    return [*found, wrong("length", short)] if short and names else found


def _share(steps: int, length: int | None) -> str:
    return "" if length is None else f", {100 * steps / length:.2g} % of {length}"


def _replicas(explorer: Explorer) -> Finding:
    replicas = explorer._ensemble.replicas
    inner = math.prod(replicas.shape[1:])
    words = f"{replicas.size}"
    if inner > 1:
        ranks = ", ".join(map(str, group_ranks(replicas.group)))
        words += f", each of {inner} processes; the replicas of this one's part: ranks {ranks}"
    if replicas.size == 1:
        words += ": Explorer is your scheduler alone; start several processes"
    elif replicas.size == 2:
        words += ": the search may end too early; four are enough"
    return (ok if replicas.size > 2 else note)("replicas", words)


def _cost(explorer: Explorer, wire: dict[str, Any]) -> Finding:
    """Return what a sync sends, and the time it takes at the bandwidth measured."""
    parameters = [p for g in explorer.optimizer.param_groups for p in g["params"]]
    # Half precision travels as float32.
    size = sum(t.numel() * max(t.itemsize, 4) for t in local_floats(parameters))
    milliseconds = wire["latency"] + wire["milliseconds"] * size / wire["bytes"]
    power = min(int(math.log10(max(size, 1))) // 3, 3)
    amount = f"{size / 1e3**power:.3g} {('bytes', 'kB', 'MB', 'GB')[power]}"
    return ok("sync", f"sends {amount}, in about {milliseconds:.2g} ms")
