"""What each process sends at a sync, and how it is read: one row of numbers a replica.

The row is put together on the device and read once, after the collective. Where a replica is
several processes, their rows are added up; what is the same on all of them is divided by their
number again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .gathered import Gathered
from .signals import Losses, interval_means


class Health(NamedTuple):
    """The entries of `Averaging.health`: above 0 if non-finite, and two digests."""

    nonfinite: float
    layout: float
    outsiders: float


@dataclass(frozen=True)
class Report:
    """What one replica reports.

    Attributes:
        health: of its weights.
        losses: of the interval.
        probe: its loss on the probe's batch; NaN without a probe.
        step: optimizer steps it has done.
        facts: digest of what has to be the same everywhere.
        saves: how often its state was taken since the last sync, while the replicas differed.
        effect: as from `RateEffect.row`.
    """

    health: Health
    losses: Losses
    probe: float
    step: float
    facts: float
    saves: float
    effect: list[float]


def encode(
    health: Tensor,
    losses: Tensor,
    *,
    probe: float | Tensor,
    step: int,
    facts: int,
    saves: int,
    effect: Tensor,
) -> Tensor:
    """Return the row of one process; the arguments are the entries of `Report`."""
    one = torch.ones(1, dtype=torch.float64, device=health.device)
    probed = torch.as_tensor(probe, dtype=torch.float64, device=health.device).reshape(1)
    return torch.cat(
        (health, losses, one, probed, step * one, facts * one, saves * one, effect)
    )


def decode(rows: Sequence[Sequence[float]]) -> list[Report]:
    """Return what every replica reports, from the sums of its processes' rows."""
    reports = []
    for row in rows:
        a = len(Health._fields)
        b = a + len(Losses._fields)
        processes, probe, step, facts, saves, *effect = row[b:]
        means = probe / processes, step / processes, facts / processes
        reports.append(Report(Health(*row[:a]), Losses(*row[a:b]), *means, saves, effect))
    return reports


def summarise(reports: Sequence[Report], broken: list[int]) -> Gathered:
    """Return what the replicas' reports say, of those that are not broken."""
    means = interval_means([report.losses for report in reports])
    losses = [math.nan if r in broken else loss for r, loss in enumerate(means)]
    probes = [math.nan if r in broken else report.probe for r, report in enumerate(reports)]
    given = [report.losses.number > 0 for report in reports]
    odd = {r for r, loss in enumerate(losses) if given[r] and not math.isfinite(loss)}
    return Gathered(
        losses=losses,
        probes=probes,
        given=any(given),
        broken=broken,
        masked=sorted({*broken, *odd}),
    )
