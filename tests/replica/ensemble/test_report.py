import math

import torch

from hdet.replica.ensemble.report import decode, encode


def row(probe):
    health = torch.tensor([0.0, 7.0, 9.0], dtype=torch.float64)
    losses = torch.tensor([6.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    effect = torch.tensor([5.0, 1.0], dtype=torch.float64)
    return encode(health, losses, probe=probe, step=12, facts=2**32 - 1, saves=1, effect=effect)


def test_what_a_replica_reports_is_what_its_process_has_said():
    (report,) = decode([row(0.25).tolist()])
    assert report.health == (0.0, 7.0, 9.0)
    assert report.losses == (6.0, 3.0, 2.0, 1.0)
    assert (report.probe, report.step, report.facts) == (0.25, 12, 2**32 - 1)
    assert report.effect == [5.0, 1.0]
    assert math.isnan(decode([row(math.nan).tolist()])[0].probe)


def test_of_the_processes_of_a_replica_losses_add_up_and_the_rest_is_their_mean():
    both = (row(torch.tensor(1.0)) + row(torch.tensor(2.0))).tolist()
    (report,) = decode([both])
    assert report.losses == (12.0, 6.0, 4.0, 2.0)
    assert (report.probe, report.step, report.facts) == (1.5, 12, 2**32 - 1)
