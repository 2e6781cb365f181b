"""A call at each step of an optimizer, once the gradients are there and the weights still are.

Where the step is given a closure, as Lightning does, the gradients come from inside it, and the
call follows it.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def before_update(optimizer: Optimizer, method: Callable[[], None]) -> RemovableHandle:
    """Have a bound method called from the next step on.

    Args:
        optimizer: of any kind.
        method: its object is held weakly; once that is gone nothing is called.

    Returns:
        What ends it.
    """
    found = WeakMethod(method)

    def call() -> None:
        bound = found()
        if bound is not None:
            bound()

    def hook(_: Optimizer, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        # The optimizer itself is the first of its step's arguments.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            call()
            return None

        def then_call() -> Any:
            loss = closure()
            call()
            return loss

        if len(args) > 1:
            return (args[0], then_call, *args[2:]), kwargs
        return args, {**kwargs, "closure": then_call}

    # Compiled steps call it as it is: what it does changes with the gradients there are.
    untouched: Any = torch.compiler.disable(hook)
    return optimizer.register_step_pre_hook(untouched)
