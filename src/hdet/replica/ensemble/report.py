"""What each process sends at a sync, and how it is read: one row of numbers a replica.

The row is put together on the device and read once, after the collective. Where a replica is
several processes, their rows are added up; what is the same on all of them is divided by their
number again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HEALTH, LOSSES = 3, 4  # numbers in `Averaging.health` and in `LossMeter.row`


@dataclass(frozen=True)
class Report:
    """What one replica reports.

    Attributes:
        health: as from `Averaging.health`.
        losses: as from `LossMeter.row`.
        probe: its loss on the probe's batch; NaN without a probe.
        step: optimizer steps it has done.
        facts: digest of what has to be the same everywhere.
        effect: as from `RateEffect.row`.
    """

    health: list[float]
    losses: list[float]
    probe: float
    step: float
    facts: float
    effect: list[float]


def encode(
    health: Tensor,
    losses: Tensor,
    *,
    probe: float | Tensor,
    step: int,
    facts: int,
    effect: Tensor,
) -> Tensor:
    """Return the row of one process; the arguments are the entries of `Report`."""
    one = torch.ones(1, dtype=torch.float64, device=health.device)
    probed = torch.as_tensor(probe, dtype=torch.float64, device=health.device).reshape(1)
    return torch.cat((health, losses, one, probed, step * one, facts * one, effect))


def decode(rows: Sequence[Sequence[float]]) -> list[Report]:
    """Return what every replica reports, from the sums of its processes' rows."""
    reports = []
    for row in rows:
        health, row = list(row[:HEALTH]), row[HEALTH:]
        losses, row = list(row[:LOSSES]), row[LOSSES:]
        processes, probe, step, facts, *effect = row
        mean = (probe / processes, step / processes, facts / processes)
        reports.append(Report(health, losses, *mean, effect))
    return reports
