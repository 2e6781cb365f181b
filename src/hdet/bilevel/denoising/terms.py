"""The terms that lower levels of image denoising are made of.

They multiply instead of calling `square()`, whose second derivative is that of a general power
and costs more.
"""

import torch
from torch import Tensor

Theta = dict[str, Tensor]


def fidelity(u: Tensor, noisy: Tensor) -> Tensor:
    """Return |u - noisy|^2 / 2 of each image [m, h, w], [m]; 1-strongly convex in u."""
    off = u - noisy
    return (off * off).sum((1, 2)) / 2


def smoothed_length(square: Tensor, smoothing: Tensor) -> Tensor:
    """Return sqrt(square + e^(2 smoothing)), with finite derivatives however small that is.

    Args:
        square: squared lengths.
        smoothing: of a shape that broadcasts with `square`.
    """
    # Too small to change a result for numbers around 1, and large enough that the third power
    # of the root, by which the Hessian divides, does not underflow.
    floor = torch.finfo(square.dtype).eps ** 2
    return (square + (2 * smoothing).exp() + floor).sqrt()
