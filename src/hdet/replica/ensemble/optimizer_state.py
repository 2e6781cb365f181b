"""Which optimizer state differs between replicas, and so has to be averaged too.

The replicas share every gradient, so state that is built from gradients alone (Adam's
moments under decoupled weight decay, SGD's momentum without weight decay) is identical on
all of them and is left alone. Two kinds of state follow the weights, which differ:

- **coupled weight decay** adds `weight_decay * weight` to the gradient before the state
  sees it: `Adam`, `SGD`, `RMSprop`, `Adagrad` and their kin, in groups where
  `weight_decay` is not 0. Decoupled are `AdamW`, `Muon`, `Adafactor`, whatever sets
  `decoupled_weight_decay`, and Schedule-Free's moments;
- **copies of the weights**, under the names that packages give them: `z` (Schedule-Free),
  `master_param` (apex), `slow_buffer` and `slow_param` (Lookahead), `ax` (ASGD), `ema`.

State may be nested, as a list of preconditioners is, and some may be the optimizer's own rather
than a parameter's. All of it is healed, and averaged where the replicas share no gradients.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .contents import local_part

_DECOUPLED = ("AdamW", "Muon", "Adafactor", "Lion", "ScheduleFree")
# Schedule-Free counts in its groups, and corrects its moments by it.
GROUP_COUNTERS = {"k": 0, "weight_sum": 0.0, "lr_max": -1.0}
COPIES_OF_WEIGHTS = ("z", "master_param", "slow_buffer", "slow_param", "ax", "ema")


def weight_dependent_state(optimizer: Optimizer) -> list[Tensor]:
    """Return the state tensors that differ between replicas, in the parameters' order.

    Args:
        optimizer: any optimizer; state it has not made yet is not there to be averaged.

    Returns:
        The tensors themselves, for `average_`. Local.
    """
    classes = [cls.__name__ for cls in type(optimizer).__mro__]
    decoupled = any(name in cls for cls in classes for name in _DECOUPLED)
    found = []
    for group, parameter, key, tensor in _state_tensors(optimizer):
        coupled = group.get("weight_decay", 0) != 0 and not (
            decoupled or group.get("decoupled_weight_decay", False)
        )
        if parameter is None:
            continue
        if key in COPIES_OF_WEIGHTS or (coupled and tensor.ndim > 0):
            found.append(tensor)
    return found


def all_state(optimizer: Optimizer) -> list[Tensor]:
    """Return every state tensor, to heal a replica whose state is in doubt. Local."""
    return [tensor for _, _, _, tensor in _state_tensors(optimizer)]


@torch.no_grad()
def overflows(optimizer: Optimizer) -> bool:
    """Return whether any state is beyond what float32 holds. Local.

    A gradient of 1e30 moves Adam's weights by no more than any other, and its square stays in
    the second moment: from then on the weights stand still, and no loss says so. In float64
    it would take that moment as long to decay.
    """
    local = map(local_part, all_state(optimizer))
    floats = [t for t in local if t.is_floating_point() and t.numel()]
    if not floats:
        return False
    largest = [torch.linalg.vector_norm(t, math.inf).float() for t in floats]
    # An infinity or a NaN in any of them reaches the sum of zeros that the others become.
    return not bool(torch.stack([(x * 0).to(largest[0].device) for x in largest]).sum() == 0)


@torch.no_grad()
def reset_state(optimizer: Optimizer) -> None:
    """Set the state to what it began with; copies of the weights become the weights."""
    for group, parameter, key, tensor in _state_tensors(optimizer, with_step=True):
        if key in COPIES_OF_WEIGHTS and parameter is not None:
            tensor.copy_(parameter)
        else:
            tensor.fill_(first_value(key, group))
    for owner in optimizer.state.values():
        reset_counters(owner)
    for group in optimizer.param_groups:
        group |= {key: value for key, value in GROUP_COUNTERS.items() if key in group}


def first_value(key: str, group: dict) -> float:
    """Return what state begins with: 0 but for NAdam's product of momenta and Adagrad's sum."""
    if key == "mu_product":
        return 1.0
    return group.get("initial_accumulator_value", 0.0) if key == "sum" else 0.0


def reset_counters(state: Any) -> None:
    """Set steps that are plain numbers to 0, wherever in the state they are."""
    if isinstance(state, dict) and isinstance(state.get("step"), (int, float)):
        state["step"] = type(state["step"])(0)
    for value in _items(state).values():
        reset_counters(value)


def _state_tensors(
    optimizer: Optimizer, with_step: bool = False
) -> Iterator[tuple[dict, Tensor | None, str, Tensor]]:
    """Yield group, parameter, key and tensor: of each parameter, then of what is not by one.

    State may be nested, in dictionaries and lists; the key is the outermost one's name, or a
    name further in that says more.
    """
    owners: set[int] = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            owners.add(id(parameter))
            for key, tensor in _walk(optimizer.state.get(parameter, {})):
                if with_step or key != "step":
                    yield group, parameter, key, tensor
    # Most often under a name; sorted by it, since the order has to be the same on all ranks.
    shared = [(key, value) for key, value in optimizer.state.items() if id(key) not in owners]
    for name, value in sorted(shared, key=lambda item: str(item[0])):
        if not isinstance(name, Tensor):
            for key, tensor in _walk({str(name): value}):
                if with_step or key != "step":
                    yield {}, None, key, tensor


def _walk(state: Any, key: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor with the name that it goes by."""
    if isinstance(state, Tensor):
        yield key, state
    for name, value in _items(state).items():
        known = name in COPIES_OF_WEIGHTS or name == "step"
        yield from _walk(value, name if known or not key else key)


def _items(state: Any) -> dict[str, Any]:
    """Return what is inside a dictionary, in order of the keys, or in a list or tuple."""
    if isinstance(state, dict):
        return {str(key): state[key] for key in sorted(state, key=str)}
    if isinstance(state, (list, tuple)):
        return {str(index): value for index, value in enumerate(state)}
    return {}
