"""Which optimizer state differs between replicas, and so has to be averaged too.

The replicas share every gradient, so state that is built from gradients alone (Adam's
moments under decoupled weight decay, SGD's momentum without weight decay) is identical on
all of them and is left alone. Two kinds of state follow the weights, which differ:

- **coupled weight decay** adds `weight_decay * weight` to the gradient before the state
  sees it: `Adam`, `SGD`, `RMSprop`, `Adagrad` and their kin, in groups where
  `weight_decay` is not 0. Decoupled are `AdamW`, `Muon`, `Adafactor`, whatever sets
  `decoupled_weight_decay`, and Schedule-Free's moments;
- **copies of the weights**, under the names that packages give them: `z` (Schedule-Free),
  `master_param` (apex), `slow_buffer` and `slow_param` (Lookahead), `ema`.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

_DECOUPLED = ("AdamW", "Muon", "Adafactor", "Lion", "ScheduleFree")
# Schedule-Free counts in its groups, and corrects its moments by it.
_GROUP_COUNTERS = {"k": 0, "weight_sum": 0.0, "lr_max": -1.0}
_COPIES_OF_WEIGHTS = ("z", "master_param", "slow_buffer", "slow_param", "ema")


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
        if key in _COPIES_OF_WEIGHTS or (coupled and tensor.shape == parameter.shape):
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
    local = (t.to_local() if isinstance(t, DTensor) else t for t in all_state(optimizer))
    floats = [t for t in local if t.is_floating_point() and t.numel()]
    if not floats:
        return False
    largest = [torch.linalg.vector_norm(t, math.inf).float() for t in floats]
    # An infinity or a NaN in any of them reaches the sum of zeros that the others become.
    return not bool(torch.stack([(x * 0).to(largest[0].device) for x in largest]).sum() == 0)


@torch.no_grad()
def reset_state(optimizer: Optimizer) -> None:
    """Set the state to what it began with: zeros, and copies of weights to the weights."""
    for _, parameter, key, tensor in _state_tensors(optimizer, with_step=True):
        if key in _COPIES_OF_WEIGHTS:
            tensor.copy_(parameter)
        else:
            tensor.zero_()
    for state in optimizer.state.values():
        if isinstance(state.get("step"), int):
            state["step"] = 0
    for group in optimizer.param_groups:
        group |= {key: value for key, value in _GROUP_COUNTERS.items() if key in group}


def _state_tensors(
    optimizer: Optimizer, with_step: bool = False
) -> Iterator[tuple[dict, Tensor, str, Tensor]]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in sorted(optimizer.state.get(parameter, {}).items()):
                if isinstance(value, Tensor) and (with_step or key != "step"):
                    yield group, parameter, key, value
