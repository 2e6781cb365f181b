"""Image denoising by fields of experts: the filters are learned, with their weights.

    h(u; theta) = |u - y|^2 / 2
        + e^scale * sum over k of e^(weights_k) * sum over pixels of
          sqrt((filters_k * u)^2 + e^(2 smoothing_k))

y is the noisy image. Filters lie wholly within the image ("valid", no padding), so nothing
beyond its border is invented; `*` does not flip the filter. All terms are convex and the first
is 1-strongly convex, so h is 1-strongly convex whatever theta is.

Sources: Roth, Black, "Fields of experts", IJCV 82(2), 2009; Chen, Ranftl, Pock, "Insights into
analysis operator learning", IEEE Trans. Image Process. 23(3), 2014, for learning them by two
levels; arXiv 2308.10098, section 4.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import require_whole
from ...seeding import unkeyed
from ...state import Entries
from ..result import Callback
from ..rules import Rules
from .denoiser import Denoiser
from .terms import Theta, fidelity, smoothed_length

if TYPE_CHECKING:
    # Of the standard library from Python 3.11 on; torch brings this one.
    from typing_extensions import Self


def fields_of_experts(u: Tensor, noisy: Tensor, theta: Theta) -> Tensor:
    """Return h of each image, [m].

    Args:
        u: images, [m, h, w], no smaller than a filter.
        noisy: y, [m, h, w], in the same units.
        theta: of K filters of s x s: "scale", a logarithm common to all weights, scalar;
            "weights", logarithms, [K]; "smoothing", logarithms of the responses below which
            the root is smooth, [K]; "filters", [K, s, s].
    """
    responses = functional.conv2d(u[:, None], theta["filters"][:, None])
    experts = smoothed_length(responses * responses, theta["smoothing"][:, None, None])
    penalty = (experts.sum((2, 3)) * theta["weights"].exp()).sum(1)
    return fidelity(u, noisy) + theta["scale"].exp() * penalty


def field_start(
    filters: int | None = 8,
    size: int = 5,
    seed: int = 0,
    *,
    weight: float = -3.0,
    smoothing: float = -3.5,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Theta:
    """Return a theta to start from: filters of mean 0 and norm 1.

    Args:
        filters: K, the number of random ones. None is the cosine basis without its constant,
            K = s^2 - 1, from which Chen, Ranftl and Pock start.
        size: s, their height and width, at least 2.
        seed: of random filters, which are the same on every device.
        weight: the logarithm of every filter's weight; that of the scale is 0.
        smoothing: the logarithm of every filter's smoothing.
        dtype: of the tensors.
        device: of the tensors.
    """
    drawn = _cosines(size) if filters is None else _random(filters, size, seed)
    theta = {
        "scale": torch.zeros(()),
        "weights": torch.full((len(drawn),), weight),
        "smoothing": torch.full((len(drawn),), smoothing),
        "filters": drawn,
    }
    return {name: value.to(device, dtype) for name, value in theta.items()}


def _random(filters: int, size: int, seed: int) -> Tensor:
    drawn = torch.randn(filters, size, size, generator=unkeyed(seed), dtype=torch.float64)
    drawn -= drawn.mean((1, 2), keepdim=True)
    return drawn / drawn.square().sum((1, 2), keepdim=True).sqrt()


def _cosines(size: int) -> Tensor:
    index = torch.arange(size, dtype=torch.float64)
    waves = (math.pi / size * index[:, None] * (index + 0.5)).cos()
    waves = waves / waves.square().sum(1, keepdim=True).sqrt()
    return torch.einsum("ai,bj->abij", waves, waves).reshape(-1, size, size)[1:]


class FieldsOfExperts(Denoiser):
    """Fields of experts, filters and all learned; `fit`, then `denoise`.

    Filters keep a mean of 0, as those of Chen, Ranftl and Pock: brightness is not penalised,
    an even image stays as it is, and at equal cost more is learned.

    Learning starts from weights that add up to one and a half times the noise, and a tenth of
    it for the smoothing, and so does not depend on the scale of the images.

    Args:
        filters: K, the number of filters, which start at random. None is size^2 - 1, which
            start from the cosine basis; fewer steps then lead further.
        size: their height and width in pixels, at least 2; images are no smaller. 3 learned
            most per cost in our measurements; larger ones need larger budgets.
        seed: of random filters.
        max_steps: the largest number of outer steps of `maid`.
        budget: its largest cost: lower gradients, Hessian-vector and mixed products.
        rules: its constants; None is `Rules()`.
        callback: called after every outer step with its `Step` and the state behind it.

    Attributes:
        theta: what was learned: "scale", "weights", "smoothing", logarithms, and "filters",
            [K, size, size]; empty before.
        result: of `maid`, with status, history and counts; None before `fit`, after `load`.

    Raises:
        ValueError: if there are no filters, or they are smaller than 2 x 2.
    """

    def __init__(
        self,
        filters: int | None = None,
        size: int = 3,
        *,
        seed: int = 0,
        max_steps: int = 1000,
        budget: int | None = 10_000,
        rules: Rules | None = None,
        callback: Callback | None = None,
    ) -> None:
        super().__init__(max_steps=max_steps, budget=budget, rules=rules, callback=callback)
        self._filters, self._size, self._seed = filters, size, seed
        if filters is not None:
            require_whole("FieldsOfExperts", "filters", filters, "try 8", low=1)
        # A filter of mean 0 and one pixel is 0.
        require_whole("FieldsOfExperts", "size", size, "try 5", low=2)
        self._smallest = size

    def _lower(self, u: Tensor, noisy: Tensor, theta: Theta) -> Tensor:
        # Their means change no gradient here, and so stay at 0 while theta is learned.
        filters = theta["filters"]
        centred = filters - filters.mean((1, 2), keepdim=True)
        return fields_of_experts(u, noisy, theta | {"filters": centred})

    def _start(self, noise: float) -> Theta:
        count = self._filters or self._size**2 - 1
        weight, smoothing = math.log(1.5 * noise / count), math.log(noise / 10)
        return field_start(
            self._filters, self._size, self._seed, weight=weight, smoothing=smoothing
        )

    @classmethod
    def _parsed(cls, entries: Entries) -> "Self":
        filters = entries.tensor("filters", shape=(None, None, None))
        count, height, width = filters.shape
        if count < 1 or height != width or height < 2:
            entries.refuse("filters", filters, "must be of shape (K, s, s), s at least 2")
        made, dtype = cls(count, height), filters.dtype
        made.theta = {
            "scale": entries.tensor("scale", shape=(), dtype=dtype),
            "weights": entries.tensor("weights", shape=(count,), dtype=dtype),
            "smoothing": entries.tensor("smoothing", shape=(count,), dtype=dtype),
            "filters": filters,
        }
        return made
