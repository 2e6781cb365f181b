"""Derivatives whatever the caller's gradient mode is.

Inside `torch.no_grad()` no graph is recorded, and inside `torch.inference_mode()` tensors are
made that no graph may hold. Neither may change what a bilevel method finds, so levels are
evaluated and differentiated in a mode of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def gradients() -> Iterator[None]:
    """Record graphs inside, and make tensors that they may hold; a decorator as well."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def plain(tensor: Tensor) -> Tensor:
    """Return a copy without a graph, made as if outside `torch.inference_mode()`."""
    with torch.inference_mode(False):
        return tensor.detach().clone()


def variable(tensor: Tensor) -> Tensor:
    """Return a tensor of the same values to differentiate by."""
    tensor = plain(tensor) if tensor.is_inference() else tensor.detach()
    return tensor.requires_grad_()
