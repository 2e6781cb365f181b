"""Images as one batch, checked, and the measure of how good they are."""

from typing import Any

import torch
from torch import Tensor

from ...errors import require
from ..modes import plain

_TYPES = (torch.float32, torch.float64)
# An image whose channels come last looks three or four pixels wide.
_SMALLEST = 5


def as_images(images: Any, call: str, argument: str, smallest: int = _SMALLEST) -> Tensor:
    """Return a tensor or an array as a tensor [..., h, w].

    Raises:
        ValueError: if it is not finite, not of float32 or float64, or an image's height or
            width is below `smallest`, or 5.
    """
    given = images if isinstance(images, Tensor) else torch.tensor(images)
    # Torch cannot differentiate with tensors that were made in inference mode.
    given = plain(given) if given.is_inference() else given.detach()
    rule, remedy = "must be float32 or float64", "for bytes write image / 255.0"
    require(given.dtype in _TYPES, call, f"{argument}.dtype", given.dtype, rule, remedy)
    least = max(smallest, _SMALLEST)
    shape = tuple(given.shape)
    good = given.dim() >= 2 and min(shape[-2:]) >= least and given.numel() > 0
    rule = f"must end in a height and a width of at least {least} pixels"
    remedy = "move colours to the front: image.transpose(2, 0, 1)"
    require(good, call, f"{argument}.shape", shape, rule, remedy)
    wrong = given[~given.isfinite()]
    rule = f"must be finite, and {len(wrong)} of {given.numel()} values are not"
    shown = float(wrong[0]) if len(wrong) else None
    require(not len(wrong), call, argument, shown, rule, "replace them, or leave the image out")
    return given


def as_pairs(clean: Any, noisy: Any, call: str, smallest: int) -> tuple[Tensor, Tensor]:
    """Return clean and noisy images as [m, h, w]; arguments and errors as `as_images`."""
    clean = as_images(clean, call, "clean", smallest)
    noisy = as_images(noisy, call, "noisy", smallest)
    for what in ("shape", "dtype", "device"):
        value, expected = getattr(noisy, what), getattr(clean, what)
        rule = f"must be that of clean, {expected}"
        remedy = "give one noisy image for each clean one, alike in shape, type and device"
        require(value == expected, call, f"noisy.{what}", value, rule, remedy)
    differs, rule = not torch.equal(clean, noisy), "must differ from clean"
    remedy = "add the noise that is to be removed: clean + 0.1 * torch.randn_like(clean)"
    require(differs, call, "noisy", "clean", rule, remedy)
    return clean.reshape(-1, *clean.shape[-2:]), noisy.reshape(-1, *noisy.shape[-2:])


def psnr(images: Tensor, clean: Tensor, *, peak: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in decibels, [...].

    10 log10(peak^2 / mean over pixels of (images - clean)^2)

    Args:
        images: [..., h, w].
        clean: what they should be, [..., h, w].
        peak: the largest value that an image can have.

    Returns:
        Decibels, infinite where the two are equal.
    """
    return 10 * (peak**2 / (images - clean).square().mean((-2, -1))).log10()
