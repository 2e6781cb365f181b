"""Uniform selection: every client as likely as any other.

What federated averaging does by default, and what every other selector must beat.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017.
"""

import torch

from .draws import draw
from .selector import Round, Selector


class Random(Selector):
    """Choose uniformly, without replacement. Asks nobody, and learns nothing.

    Args:
        seed: the run's seed.
    """

    def _choose(self, now: Round) -> torch.Tensor:
        alike = torch.zeros(len(now.rows), dtype=torch.float64)
        return draw(alike, now.count, self._generator(now.number, "draw"))
