"""Server optimizers: formulas by hand (tests/integrations compares them with Flower's)."""

import math

import pytest
import torch

from hdet.federated.server_optimizers import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

FIRST, SECOND = torch.tensor([[0.2, -0.4], [0.1, 0.3]], dtype=torch.float64)


def test_fedavg_steps_by_the_mean_update_itself():
    assert FedAvg().step(FIRST) is FIRST


def test_momentum_sums_what_was():
    server = FedAvgM(eta=0.5, momentum=0.9)
    assert torch.allclose(server.step(FIRST), 0.5 * FIRST)
    assert torch.allclose(server.step(SECOND), 0.5 * (0.9 * FIRST + SECOND))


def test_adam_by_hand():
    server = FedAdam(eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
    server.step(FIRST)
    mean = 0.9 * 0.1 * FIRST + 0.1 * SECOND
    square = 0.99 * 0.01 * FIRST**2 + 0.01 * SECOND**2
    rate = 0.1 * math.sqrt(1 - 0.99**3) / (1 - 0.9**3)
    assert torch.allclose(server.step(SECOND), rate * mean / (square.sqrt() + 1e-3))


def test_adagrad_by_hand():
    server = FedAdagrad(eta=0.1, tau=1e-3)
    server.step(FIRST)
    expected = 0.1 * SECOND / ((FIRST**2 + SECOND**2).sqrt() + 1e-3)
    assert torch.allclose(server.step(SECOND), expected)


def test_yogi_moves_its_second_moment_by_the_sign():
    server = FedYogi(eta=0.1)
    server.step(FIRST)
    # Both times the new square is above the old moment, which grows by a hundredth of it.
    mean, square = (0.9 * 0.1 + 0.1) * FIRST, 0.02 * FIRST**2
    assert torch.allclose(server.step(FIRST), 0.1 * mean / (square.sqrt() + 1e-3))


@pytest.mark.parametrize("rule", [FedAdam, FedAdagrad, FedYogi])
def test_a_zero_update_makes_no_step(rule):
    assert torch.equal(rule().step(torch.zeros(3)), torch.zeros(3))


def test_the_first_update_may_be_used_again_by_its_caller():
    optimizer, delta = FedAvgM(momentum=0.5), torch.tensor([1.0])
    optimizer.step(delta)
    delta.fill_(100.0)
    assert optimizer.step(torch.tensor([2.0])).tolist() == [2.5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedAvgM(momentum=1.0), r"FedAvgM\(momentum=1.0\)` must lie in \[0, 1\)"),
        (lambda: FedAdam(eta=math.nan), r"FedAdam\(eta=nan\)` must be finite and above 0"),
        (lambda: FedAdam(beta_1=1.0), r"FedAdam\(beta_1=1.0\)`"),
        (lambda: FedYogi(tau=0.0), r"FedYogi\(tau=0.0\)`"),
        (lambda: FedAdagrad(eta=-1.0), r"FedAdagrad\(eta=-1.0\)`"),
    ],
)
def test_arguments_that_cannot_train_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
