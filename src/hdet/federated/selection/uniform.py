"""Uniform selection: every client as likely as any other.

The default of federated averaging, and the baseline for every other selector.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017.
"""

from torch import Tensor

from .draws import draw_uniform
from .selector import Round, Selector


class Random(Selector):
    """Choose uniformly, without replacement, and without any probe.

    Args:
        seed: the run's seed.

    Raises:
        ValueError: if `seed` is not an integer.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)

    def _choose(self, now: Round) -> Tensor:
        return draw_uniform(len(now.rows), now.count, self._generator(now.number, "draw"))
