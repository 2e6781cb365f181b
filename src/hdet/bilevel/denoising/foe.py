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

import math
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from ...state import Entries
from ..checks import require_whole
from ..maid import Rules
from ..result import Callback
from .denoiser import Denoiser
from .terms import Theta, fidelity, smoothed_length


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
    """Return a theta to begin with: filters of mean 0 and length 1.

    Args:
        filters: K, how many random ones. None: the cosine basis without its constant, of
            K = s^2 - 1, where Chen, Ranftl and Pock begin.
        size: s, their height and width, at least 2.
        seed: of random filters; the same on every device.
        weight: logarithm of every filter's weight; that of the scale is 0.
        smoothing: logarithm of every filter's smoothing.
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
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randn(filters, size, size, generator=source, dtype=torch.float64)
    drawn -= drawn.mean((1, 2), keepdim=True)
    return drawn / drawn.square().sum((1, 2), keepdim=True).sqrt()


def _cosines(size: int) -> Tensor:
    place = torch.arange(size, dtype=torch.float64)
    waves = (math.pi / size * place[:, None] * (place + 0.5)).cos()
    waves = waves / waves.square().sum(1, keepdim=True).sqrt()
    return torch.einsum("ai,bj->abij", waves, waves).reshape(-1, size, size)[1:]


class FieldsOfExperts(Denoiser):
    """Fields of experts, filters and all learned; `fit`, then `denoise`.

    Filters keep a mean of 0, as Chen, Ranftl and Pock have it: brightness is not penalised,
    an even image stays as it is, and at equal cost more is learned.

    Learning begins with weights that add up to one and a half times the noise, and a tenth of
    it for the smoothing, and so is free of the images' scale.

    Args:
        filters: K, how many, beginning at random. None: size^2 - 1, beginning at the cosine
            basis, from where fewer steps lead further.
        size: their height and width in pixels, at least 2; images are no smaller. By our
            measurements 3 learns most per cost, more need larger budgets.
        seed: of random filters.
        max_steps: outer steps of `maid`.
        budget: its largest cost: lower gradients, Hessian-vector and mixed products.
        rules: its constants; None is `Rules()`.
        callback: called after every outer step with its record and the state behind it.

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
        super().__init__(max_steps, budget, rules, callback)
        self._filters, self._size, self._seed = filters, size, seed
        name = "FieldsOfExperts"
        if filters is not None:
            require_whole(name, "filters", filters, 1, "try 8")
        # A filter of mean 0 that is one pixel large is 0.
        require_whole(name, "size", size, 2, "try 5")

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
    def _parse(cls, entries: Entries) -> Theta:
        filters = entries.tensor("filters", shape=(None, None, None))
        count, height, width = filters.shape
        if count < 1 or height != width or height < 2:
            entries.refuse("filters", filters, "must be of shape (K, s, s), s from 2")
        dtype = filters.dtype
        return {
            "scale": entries.tensor("scale", shape=(), dtype=dtype),
            "weights": entries.tensor("weights", shape=(count,), dtype=dtype),
            "smoothing": entries.tensor("smoothing", shape=(count,), dtype=dtype),
            "filters": filters,
        }

    @classmethod
    def _for(cls, theta: Theta) -> Self:
        filters, size, _ = theta["filters"].shape
        return cls(filters, size)

    def _smallest(self) -> int:
        return self._size
