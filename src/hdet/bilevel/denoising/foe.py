"""Image denoising by fields of experts: the filters are learned, with their weights.

    h(u; theta) = |u - y|^2 / 2
        + e^scale * sum over k of e^(weights_k) * sum over pixels of
          sqrt((filters_k * u)^2 + e^(2 smoothing_k))

y is the noisy image. Filters lie wholly within the image ("valid", no padding), so nothing is
made up beyond its border; `*` does not flip the filter. As all terms are convex and the first
is 1-strongly so, h is 1-strongly convex whatever theta is.

Sources: Roth, Black, "Fields of experts", IJCV 82(2), 2009; Chen, Ranftl, Pock, "Insights into
analysis operator learning", IEEE Trans. Image Process. 23(3), 2014, for learning them by two
levels; arXiv 2308.10098, section 4.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .tv import Theta, fidelity, smoothed_length


def fields_of_experts(u: Tensor, noisy: Tensor, theta: Theta) -> Tensor:
    """Return h of each image, [m].

    Args:
        u: images, [m, h, w], no smaller than a filter.
        noisy: y, [m, h, w], in the same units.
        theta: of K filters of s x s: "scale", a logarithm common to all weights, scalar;
            "weights", logarithms, [K]; "smoothing", logarithms of the responses below which
            a filter counts as silent, [K]; "filters", [K, s, s].
    """
    responses = functional.conv2d(u[:, None], theta["filters"][:, None])
    experts = smoothed_length(responses.square(), theta["smoothing"][:, None, None])
    penalty = (experts.sum((2, 3)) * theta["weights"].exp()).sum(1)
    return fidelity(u, noisy) + theta["scale"].exp() * penalty


def field_start(
    filters: int = 8,
    size: int = 5,
    seed: int = 0,
    *,
    weight: float = -3.0,
    smoothing: float = -3.5,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Theta:
    """Return a theta to begin with: random filters of mean 0 and length 1.

    Args:
        filters: K, how many.
        size: s, their height and width, at least 2.
        seed: of the filters; the same on every device.
        weight: logarithm of every filter's weight; that of the scale is 0.
        smoothing: logarithm of every filter's smoothing.
        dtype: of the tensors.
        device: of the tensors.
    """
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randn(filters, size, size, generator=source, dtype=torch.float64)
    drawn -= drawn.mean((1, 2), keepdim=True)
    drawn /= drawn.square().sum((1, 2), keepdim=True).sqrt()
    theta = {
        "scale": torch.zeros(()),
        "weights": torch.full((filters,), weight),
        "smoothing": torch.full((filters,), smoothing),
        "filters": drawn,
    }
    return {name: value.to(device, dtype) for name, value in theta.items()}
