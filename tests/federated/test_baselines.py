"""FedExP and decay: formulas by hand, and what is refused."""

import pytest
import torch

from hdet.federated import Decay, FedExP


def test_opposed_clients_are_extrapolated_by_the_papers_ratio():
    deltas = torch.tensor([[2.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    mean = deltas.mean(0)
    norms = deltas.square().sum(1).tolist()
    # (5 + 2) / (2 * 2 * (0.25 + 1 + 0.05))
    assert FedExP(eps=0.05).update(mean, norms) == pytest.approx(7 / 5.2)


def test_agreeing_clients_are_averaged():
    assert FedExP(eps=0.0).update(torch.ones(3), [3.0, 3.0]) == 1.0


def test_weights_of_the_mean_count():
    mean = torch.tensor([0.1])
    weighted = FedExP(eps=0.0).update(mean, [4.0, 1.0], [1, 3])
    assert weighted == pytest.approx((4 + 3) / 4 / (2 * 0.01))
    assert FedExP(eps=0.0).update(mean, [4.0, 1.0], [2, 6]) == weighted


def test_nothing_moved_is_no_division_by_zero():
    assert FedExP(eps=0.0).update(torch.zeros(2), [0.0]) == 1.0


@pytest.mark.parametrize("norms", [[], [1.0, float("nan")], [float("inf")]])
def test_numbers_that_cannot_be_used_are_refused(norms):
    with pytest.raises(ValueError, match=r"FedExP\.update"):
        FedExP().update(torch.ones(2), norms)


def test_decay_is_exponential_and_resumes():
    rate = Decay(0.5, factor=0.9)
    assert [rate.update() for _ in range(3)] == pytest.approx([0.5, 0.45, 0.405])
    other = Decay(0.5, factor=0.9)
    other.load_state_dict(rate.state_dict())
    assert other.update() == rate.update()


@pytest.mark.parametrize("factor", [0.0, 1.5])
def test_a_factor_that_does_not_decay_is_refused(factor):
    with pytest.raises(ValueError, match=r"factor=.*\(0, 1\]"):
        Decay(factor=factor)
