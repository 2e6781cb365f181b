"""Warm noisy start: each replica leaves a checkpoint in a direction of its own.

Source: HDET (arXiv 2604.24708), equation (6): p += nu ||p|| / sqrt(numel(p)) * N(0, 1),
per parameter tensor and independently on each rank.
"""

import torch
from torch import Generator, Tensor, nn

from ... import seeding
from ...errors import require
from .contents import is_dtensor
from .meshes import find_replicas


@torch.no_grad()
def add_noise_(
    model: nn.Module, nu: float = 0.01, *, generator: Generator | None = None
) -> None:
    """Add relative Gaussian noise to every parameter, independent on each rank, in place.

    p += nu ||p|| / sqrt(numel(p)) * N(0, 1), equation (6). Call it after loading the
    checkpoint and after wrapping in DDP, which would otherwise broadcast rank 0's weights.
    Local for plain parameters; for sharded ones (DTensor) the norm is a collective.

    Args:
        model: its floating-point parameters are changed; buffers are not. A parameter that
            is all zero stays so, and so does one that is not finite, as a mask.
        nu: size of the noise relative to the parameter's own, at least 0; the paper's
            value is 0.01.
        generator: draws the noise, on the generator's device; the caller then sees to its
            being another one on each rank. Default: private generators keyed by replica,
            parameter and shard, so that the global random state is neither read nor moved.

    Raises:
        ValueError: if `nu` is negative.

    References:
        Cheng et al., arXiv 2604.24708, noisy initialisation.
    """
    require(nu >= 0, "add_noise_", "nu", nu, "must be at least 0", "the paper uses 0.01")
    replica = find_replicas(model.parameters(), "add_noise_").rank
    for name, parameter in model.named_parameters():
        # The 8-bit floats of quantised weights have no arithmetic.
        if (
            not parameter.is_floating_point()
            or parameter.itemsize == 1
            or not parameter.numel()
        ):
            continue
        local, norm = _local_and_norm(parameter)
        if not bool(norm.isfinite()):
            continue
        # Processes that hold the same part of one replica must draw the same noise.
        draws = generator or seeding.generator(
            0, "noise", replica, name, *_shard_index(parameter)
        )
        normal = torch.randn(
            local.shape, generator=draws, dtype=_wide(local), device=draws.device
        )
        scale = nu * norm / parameter.numel() ** 0.5
        local += (normal.to(local.device) * scale).to(local.dtype)


def _local_and_norm(parameter: Tensor) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(parameter, dtype=_wide(parameter))
    if is_dtensor(parameter) and is_dtensor(norm):
        return parameter.to_local(), norm.full_tensor()
    return parameter, norm


def _wide(parameter: Tensor) -> torch.dtype:
    """Return the dtype to compute in: half precision would round the noise away."""
    return torch.promote_types(parameter.dtype, torch.float32)


def _shard_index(parameter: Tensor) -> list[int]:
    if not is_dtensor(parameter):
        return []
    coordinate = parameter.device_mesh.get_coordinate() or []
    axes = zip(coordinate, parameter.placements, strict=True)
    return [index for index, placement in axes if not placement.is_replicate()]
