"""Whether the state of a torch scheduler can be taken up: asked before it is.

torch's schedulers take whatever a checkpoint holds: `load_state_dict` writes every entry over
the attribute of its name. Here each entry must look like the one that it replaces, and then the
state is tried on a copy of the scheduler over a stand-in for the optimizer: the rates of its
next steps must be finite, and of a size that a learning rate can have.
"""

import copy
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ...state import LARGEST_RATE, MOST, Entries

_TRIED = 4  # steps: enough to meet a rule that goes by the step's parity or by the last rate
_LARGEST = 1e300  # what is beyond it, as NaN is, is damage
_COUNTS = ("last_epoch", "_step_count", "cooldown_counter", "num_bad_epochs")
# What ReduceLROnPlateau compares with before it has seen anything.
_MAY_BE_INFINITE = ("best", "mode_worse")


def parsed_scheduler_state(
    entries: Entries,
    state: Any,
    scheduler: Any,
    optimizer: Optimizer,
    rates: Sequence[float] | None = None,
) -> Any:
    """Return a copy of a scheduler's state, once it has been checked and tried.

    Args:
        entries: the state, for errors.
        state: the state itself.
        scheduler: what is to take it up.
        optimizer: whose rates it sets.
        rates: of each parameter group at the time of the state; default the optimizer's own.

    Raises:
        ValueError: if an entry is unlike the scheduler's own, or the rates that follow are
            no learning rates.
    """
    own = scheduler.state_dict()
    if not isinstance(own, Mapping):
        return copy.deepcopy(state)
    for key in own:
        # What other versions of torch lack, or have besides, is private.
        if key in state or not key.startswith("_"):
            _require_alike(entries, key, entries.raw(key), own[key])
    # torch's own make all their attributes at once; others may have some that come later.
    torchs = type(scheduler).__module__.startswith("torch.")
    state = copy.deepcopy({k: v for k, v in state.items() if k in own or not torchs})
    with warnings.catch_warnings():
        # Of a scheduler that is stepped without its optimizer.
        warnings.simplefilter("ignore")
        _try_out(entries, state, scheduler, _stand_in(optimizer, rates))
    return state


def _require_alike(entries: Entries, key: str, value: Any, own: Any) -> None:
    """Raise unless `value` could stand where `own` does."""
    alike: bool | str = True
    if own is None:
        # A number or a function's own state may stand there, as in LambdaLR's list.
        alike = value is None or isinstance(value, (bool, str, numbers.Real, Mapping))
    elif isinstance(own, (Tensor, numbers.Real)) and not isinstance(own, bool):
        _require_number(entries, key, value, own)
    elif isinstance(own, (list, tuple)):
        alike = isinstance(value, (list, tuple)) and len(value) == len(own)
        if alike:
            for i, (item, like) in enumerate(zip(value, own, strict=True)):
                _require_alike(entries, f"{key}.{i}", item, like)
    elif isinstance(own, Mapping):
        alike = isinstance(value, Mapping)
        if alike:
            for inner in value:
                # Milestones are a mapping from steps, which are the state's own.
                like = own.get(inner, 0 if isinstance(inner, int) else value[inner])
                _require_alike(entries, f"{key}.{inner}", value[inner], like)
    else:
        alike = isinstance(value, type(own))
    if not alike:
        entries.refuse(key, value, f"must be like the scheduler's own, {own!r:.60}")


def _require_number(entries: Entries, key: str, value: Any, own: Any) -> None:
    """Raise unless a value is a number of its name's range and its own's sign, or tensors."""
    name = key.split(".")[-1]
    if isinstance(value, Tensor):
        odd = value.is_meta or value.is_sparse or value.is_complex()
        if odd or value.numel() != (own.numel() if isinstance(own, Tensor) else 1):
            entries.refuse(key, value, "must be a number, as the scheduler's own")
        value = float(value.min())
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        entries.refuse(key, value, "must be a number, as the scheduler's own")
    if name in _COUNTS and not (isinstance(value, int) and -1 <= value <= MOST):
        entries.refuse(key, value, "must be a count of steps")
    if isinstance(own, Tensor):
        own = float(own.min())
    if own >= 0 > value and name not in (*_COUNTS, *_MAY_BE_INFINITE):
        entries.refuse(key, value, "must not be negative, as the scheduler's own is not")
    infinite = isinstance(value, float) and math.isinf(value) and name in _MAY_BE_INFINITE
    if not (infinite or -_LARGEST < value < _LARGEST):  # pyright: ignore[reportOperatorIssue]
        entries.refuse(key, value, "must be finite")


def _try_out(
    entries: Entries, state: dict[str, Any], scheduler: Any, stand_in: Optimizer
) -> None:
    """Step a copy of the scheduler from the state, and look at the rates."""
    try:
        # All that the scheduler holds of the optimizer becomes the stand-in.
        trial = copy.deepcopy(scheduler, {id(scheduler.optimizer): stand_in})
    except Exception:
        return  # It holds what can't be copied; torch's own schedulers do not.
    failure = None
    for step in range(_TRIED + 1):
        try:
            if step == 0:
                trial.load_state_dict(copy.deepcopy(state))
            elif isinstance(trial, ReduceLROnPlateau):
                trial.step(1.0)
            else:
                trial.step()
        except Exception as error:
            # A schedule at its end, as of OneCycleLR, is a good place for a checkpoint.
            if not (isinstance(error, ValueError) and "total steps" in str(error)):
                failure = f"fails with {type(error).__name__}: {error!s:.80}"
            break
        rates = [float(group["lr"]) for group in stand_in.param_groups]
        if not all(0 <= rate <= LARGEST_RATE for rate in rates):
            failure = f"goes on with the learning rates {rates}"
            break
    if failure is not None:
        entries.refuse("", "a scheduler's state", failure)


def _stand_in(optimizer: Optimizer, rates: Sequence[float] | None) -> Optimizer:
    """Return an optimizer with the same values in its groups, over parameters of no size."""
    groups = []
    for k, group in enumerate(optimizer.param_groups):
        values = {
            key: value.clone() if isinstance(value, Tensor) else value
            for key, value in group.items()
            if key != "params"
        }
        if rates is not None:
            values["lr"] = rates[k]
        groups.append({**values, "params": [torch.nn.Parameter(torch.zeros(()))]})
    return torch.optim.SGD(groups, lr=0.0)
