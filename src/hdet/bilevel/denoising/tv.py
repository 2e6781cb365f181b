"""Image denoising by total variation, its strength learned from pairs of images.

    h(u; theta) = |u - y|^2 / 2 + e^weight * sum over pixels of sqrt(|Du|^2 + e^(2 smoothing))

y is the noisy image, D takes forward differences, zero at the last row and column. The square
root is smooth, as implicit differentiation needs; where it is small beside an edge it keeps
edges as total variation does. The first term makes h 1-strongly convex whatever theta is.

Sources: Rudin, Osher, Fatemi, "Nonlinear total variation based noise removal algorithms",
Physica D 60, 1992; Kunisch, Pock, "A bilevel optimization approach for parameter learning in
variational models", SIAM J. Imaging Sci. 6(2), 2013; arXiv 2308.10098, section 4.
"""

import torch
from torch import Tensor
from torch.nn import functional

Theta = dict[str, Tensor]


def smoothed_tv(u: Tensor, noisy: Tensor, theta: Theta) -> Tensor:
    """Return h of each image, [m].

    Args:
        u: images, [m, h, w].
        noisy: y, [m, h, w], in the same units.
        theta: "weight", the logarithm of the penalty's weight, in units of u; "smoothing",
            the logarithm of the size of a difference below which it counts as none, in
            units of u. Both scalar tensors.
    """
    right = functional.pad(u.diff(dim=2), (0, 1))
    down = functional.pad(u.diff(dim=1), (0, 0, 0, 1))
    variation = smoothed_length(right.square() + down.square(), theta["smoothing"])
    return fidelity(u, noisy) + theta["weight"].exp() * variation.sum((1, 2))


def fidelity(u: Tensor, noisy: Tensor) -> Tensor:
    """Return |u - noisy|^2 / 2 of each image, [m]; it alone makes h 1-strongly convex."""
    return (u - noisy).square().sum((1, 2)) / 2


def smoothed_length(square: Tensor, smoothing: Tensor) -> Tensor:
    """Return sqrt(square + e^(2 smoothing)), with finite derivatives however small that is.

    Args:
        square: squared lengths.
        smoothing: of a shape that broadcasts with `square`.
    """
    # Numbers about 1 cannot differ by less than eps: no result changes, and the third power
    # of the root, which the Hessian divides by, does not underflow.
    floor = torch.finfo(square.dtype).eps ** 2
    return (square + (2 * smoothing).exp() + floor).sqrt()
