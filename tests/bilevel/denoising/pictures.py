"""Small pictures with edges and ramps, and what noise makes of them."""

import torch
from torch import Tensor


def pictures(
    count: int, height: int = 12, width: int = 12, seed: int = 0, noise: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Return clean and noisy pictures, [count, height, width], of a rectangle on a ramp."""
    source = torch.Generator().manual_seed(seed)
    clean = torch.empty(count, height, width, dtype=torch.float64)
    for picture in clean:
        low, high, slope = torch.rand(3, generator=source, dtype=torch.float64)
        top = int(torch.randint(1, height // 2, (), generator=source))
        left = int(torch.randint(1, width // 2, (), generator=source))
        picture[:] = low + 0.2 * slope * torch.linspace(0, 1, width, dtype=torch.float64)
        picture[top : top + height // 2, left : left + width // 2] += 0.5 + high / 4
    drawn = torch.randn(clean.shape, generator=source, dtype=torch.float64)
    return clean, clean + noise * drawn
