"""Image denoising by total variation, its strength learned from pairs of images.

    h(u; theta) = |u - y|^2 / 2 + e^weight * sum over pixels of sqrt(|Du|^2 + e^(2 smoothing))

y is the noisy image; D takes forward differences, zero at the last row and column. The square
root is smooth, as implicit differentiation needs, and still keeps edges if the smoothing is
small compared with them. The first term makes h 1-strongly convex whatever theta is.

Sources: Rudin, Osher, Fatemi, "Nonlinear total variation based noise removal algorithms",
Physica D 60, 1992; Kunisch, Pock, "A bilevel optimization approach for parameter learning in
variational models", SIAM J. Imaging Sci. 6(2), 2013; arXiv 2308.10098, section 4.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ...state import Entries
from .denoiser import Denoiser
from .terms import Theta, fidelity, smoothed_length

if TYPE_CHECKING:
    # Of the standard library from Python 3.11 on; torch brings this one.
    from typing_extensions import Self


def smoothed_tv(u: Tensor, noisy: Tensor, theta: Theta) -> Tensor:
    """Return h of each image, [m].

    Args:
        u: images, [m, h, w].
        noisy: y, [m, h, w], in the same units.
        theta: "weight", the logarithm of the weight of the penalty, in units of u;
            "smoothing", the logarithm of the difference below which the root is smooth, in
            units of u. Both scalar tensors.
    """
    right = functional.pad(u.diff(dim=2), (0, 1))
    down = functional.pad(u.diff(dim=1), (0, 0, 0, 1))
    variation = smoothed_length(right * right + down * down, theta["smoothing"])
    return fidelity(u, noisy) + theta["weight"].exp() * variation.sum((1, 2))


class TVDenoiser(Denoiser):
    """Total variation with learned strength; `fit`, then `denoise`.

    Learning starts from half the noise for the weight of the penalty and a tenth of it for the
    smoothing, and so does not depend on the scale of the images.

    Args:
        max_steps: the largest number of outer steps of `maid`.
        budget: its largest cost: lower gradients, Hessian-vector and mixed products. For two
            parameters 2000 is enough to come within 1 % of the best.
        rules: its constants; None is `Rules()`.
        callback: called after every outer step with its `Step` and the state behind it.

    Attributes:
        theta: what was learned: "weight" and "smoothing", logarithms; empty before.
        result: of `maid`, with status, history and counts; None before `fit`, after `load`.
    """

    def _lower(self, u: Tensor, noisy: Tensor, theta: Theta) -> Tensor:
        return smoothed_tv(u, noisy, theta)

    def _start(self, noise: float) -> Theta:
        weight, smoothing = math.log(noise / 2), math.log(noise / 10)
        return {"weight": torch.tensor(weight), "smoothing": torch.tensor(smoothing)}

    @classmethod
    def _parsed(cls, entries: Entries) -> "Self":
        weight, made = entries.tensor("weight", shape=()), cls()
        smoothing = entries.tensor("smoothing", shape=(), dtype=weight.dtype)
        made.theta = {"weight": weight, "smoothing": smoothing}
        return made
