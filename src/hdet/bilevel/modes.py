"""Derivatives that do not depend on the caller's gradient mode.

`torch.no_grad()` records no graph, and `torch.inference_mode()` makes tensors that no graph
may hold. Levels are therefore evaluated and differentiated in a mode of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def gradients() -> Iterator[None]:
    """Record graphs inside, and make tensors that they may hold; also a decorator."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def plain(tensor: Tensor) -> Tensor:
    """Return a copy without a graph, made as if outside `torch.inference_mode()`."""
    with torch.inference_mode(False):
        return tensor.detach().clone()


def variable(tensor: Tensor) -> Tensor:
    """Return a tensor of the same values to differentiate with respect to."""
    tensor = plain(tensor) if tensor.is_inference() else tensor.detach()
    return tensor.requires_grad_()
