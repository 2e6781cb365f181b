"""One scalar that is explored, and the scale on which it is spread and moved.

On its scale equal distances mean equal changes: the logarithm for positive numbers (learning
rate, weight decay, temperature), the log-odds between two bounds for probabilities (dropout,
label smoothing, beta), or the number itself. The replicas' values stand evenly around the
base value there, and the base value moves. A value never leaves its bounds, neither the base
nor any replica's.

Source: HDET (arXiv 2604.24708), equation (7); the scales are ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch.optim import Optimizer

Scale = Literal["log", "logit", "linear"]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Dimension:
    """One scalar that is explored.

    Attributes:
        name: unique and stable, as in `lr/0` or `p`: the key in metrics and checkpoints.
        scale: on which it is spread and moved.
        width: distance on that scale from the base value to the outermost replica's.
        bounds: lowest and highest value.
        value: its value when exploration began; for a rate, the factor 1.
        group: index of the parameter group of a learning rate; None for anything else.
        read: returns the value that is in place; unused for a learning rate.
        write: puts a value into place; unused for a learning rate.
        shares_state: whether replicas that differ in it still share all optimizer state.
    """

    name: str
    scale: Scale
    width: float
    bounds: Bounds
    value: float
    group: int | None
    read: Callable[[], float]
    write: Callable[[float], None]
    shares_state: bool = True

    def settings(self) -> tuple[str, float, Bounds, float]:
        """Return what has to be the same on every replica, besides the name."""
        return self.scale, self.width, self.bounds, self.value

    @property
    def is_rate(self) -> bool:
        """Whether it is the factor on a learning rate."""
        return self.group is not None

    def to_scale(self, value: float) -> float:
        """Return where a value stands on the scale."""
        if self.scale == "log":
            return math.log(value)
        if self.scale == "linear":
            return value
        low, high = self.bounds
        return math.log((value - low) / (high - value))

    def from_scale(self, coordinate: float) -> float:
        """Return the value at a coordinate of the scale, within the bounds."""
        low, high = self.bounds
        if self.scale == "log":
            # exp overflows where a hostile signal pushes on for long enough.
            value = math.exp(min(max(coordinate, -700.0), 700.0))
        elif self.scale == "linear":
            value = coordinate
        else:
            share = 0.5 * (1 + math.tanh(coordinate / 2))
            value = low + (high - low) * share
        return min(max(value, low), high)

    def clamp(self, coordinate: float) -> float:
        """Return the nearest coordinate of the scale that is within the bounds."""
        low, high = self.bounds
        if self.scale == "logit":
            # Beyond this the ends are reached to the last bit, and the way back is lost.
            return min(max(coordinate, -15.0), 15.0)
        if self.scale == "log":
            low = math.log(low) if low > 0 else -700.0
            high = math.log(high) if math.isfinite(high) else 700.0
        return min(max(coordinate, low), high)


@dataclass(frozen=True)
class Request:
    """What `Explorer(explore=...)` holds: the dimensions to be made for an optimizer.

    Attributes:
        dimensions: maps the optimizer to what is explored.
    """

    dimensions: "Callable[[Optimizer], list[Dimension]]"
