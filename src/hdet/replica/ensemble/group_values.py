"""Values in an optimizer's parameter groups: setting them, and keeping them set.

A rate that is a tensor (`capturable` optimizers, compiled steps, CUDA graphs) is filled in
place: replacing it by a number would recompile, or be overlooked by a captured graph.
"""

import weakref
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.optim import Optimizer


def set_rates(optimizer: Optimizer, rates: Sequence[float | Tensor]) -> None:
    """Set `lr` of each parameter group; one that is a tensor stays the same tensor. Local."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def own_rates(optimizer: Optimizer) -> None:
    """Give each parameter group a tensor of its own, where several share one as their rate.

    torch's optimizers accept one tensor for all groups; the rate written last would be
    everybody's.
    """
    seen: set[int] = set()
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            if id(group["lr"]) in seen:
                group["lr"] = group["lr"].clone()
            seen.add(id(group["lr"]))


def set_initial_rates(optimizer: Optimizer) -> None:
    """Note the rates that the optimizer came with, as torch's schedulers do."""
    for group in optimizer.param_groups:
        rate = group["lr"]
        group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)


def on_load(optimizer: Optimizer, method: Callable[[], None]) -> None:
    """Call a bound method whenever `optimizer` has loaded a state. Local.

    Loading replaces the parameter groups by those of whichever rank saved them. The method's
    object is not kept alive by this: a scheduler that was dropped no longer acts.
    """
    reference = weakref.WeakMethod(method)

    def loaded(_: Optimizer) -> None:
        current = reference()
        if current is not None:
            current()

    optimizer.register_load_state_dict_post_hook(loaded)
