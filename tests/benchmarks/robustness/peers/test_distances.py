"""Distance estimators: the settings reach the packages, and what is evaluated is right."""

from unittest.mock import patch

import pytest
import torch

from benchmarks.robustness.loop import plain
from benchmarks.robustness.peers import distances
from benchmarks.robustness.peers.training import packaged
from benchmarks.robustness.problems import WEIGHT_DECAY, load
from tests.benchmarks.robustness.peers.common import Quadratic, needs, problem


@pytest.fixture(scope="module")
def regression():
    return load(problem("sgd", 30))


def optimizers(method, optimizer, task, steps=4):
    """Return the optimizers that a method builds by packages, as they are after the run."""
    made = []

    def build(*args, **settings):
        made.append(packaged(*args, **settings))
        return made[-1]

    with patch.object(distances, "packaged", build):
        method(problem(optimizer, steps), task, 1e-2, 0)
    return made


@needs("prodigy")
def test_prodigy_has_its_users_settings(regression):
    for kind, decay in (("adamw", WEIGHT_DECAY), ("sgd", 0.0)):
        (made,) = optimizers(distances.prodigy, kind, regression)
        (group,) = made.param_groups
        assert type(made).__name__ == "Prodigy"
        assert group["safeguard_warmup"]
        assert group["use_bias_correction"]
        assert group["decouple"]
        assert (group["d0"], group["d_coef"], group["betas"]) == (1e-6, 1.0, (0.9, 0.999))
        assert group["weight_decay"] == decay
        # Cosine annealing from 1 over 4 steps, before the last.
        assert group["lr"] == pytest.approx((1 + torch.cos(torch.tensor(0.75 * torch.pi))) / 2)


@needs("d-adaptation")
def test_d_adaptation_is_of_the_problem_s_optimizer(regression):
    (adam,) = optimizers(distances.d_adaptation, "adamw", regression)
    assert type(adam).__name__ == "DAdaptAdam"
    assert adam.param_groups[0]["weight_decay"] == WEIGHT_DECAY
    assert adam.decouple if hasattr(adam, "decouple") else adam.param_groups[0]["decouple"]
    (sgd,) = optimizers(distances.d_adaptation, "sgd", regression)
    assert type(sgd).__name__ == "DAdaptSGD"
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["weight_decay"]) == (0.9, 0.0)


@needs("dog")
def test_dog_evaluates_its_polynomial_average():
    (made,) = optimizers(distances.dog, "adamw", Quadratic())
    (group,) = made.param_groups
    assert (group["reps_rel"], group["lr"], group["weight_decay"]) == (1e-6, 1.0, 0.0)

    weights = []

    class Seen(Quadratic):
        def loss(self, model, batch):
            if torch.is_grad_enabled():
                weights.append(model.weight.detach().clone())
            return super().loss(model, batch)

    outcome = distances.dog(problem("sgd", 3, "quadratic"), Seen(), 0.0, 0)
    # The average after t steps: 9 / (8 + t) of the newest, the rest of what it was. The third
    # step's weights are not seen, so look at the end of the second.
    average = weights[1] + 9 / 10 * (weights[2] - weights[1])
    expected = float(0.5 * (average - 1).square().sum())
    assert outcome.curve[1][1] == pytest.approx(expected, rel=1e-6)


@needs("mechanic")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_mechanic_wraps_the_problem_s_optimizer_at_rate_one_under_its_schedule(
    optimizer, regression
):
    made = []
    original = distances.begin

    def begin(problem, task, lr, seed):
        made.append((lr, original(problem, task, lr, seed)))
        return made[-1][1]

    with patch.object(distances, "begin", begin):
        outcome = distances.mechanic(problem(optimizer, 200), regression, 1e-2, 0)
    lr, (_, plain_optimizer) = made[0]
    assert lr == 1.0
    # The groups are the wrapped optimizer's: one-cycle from 1 has come to its end.
    (group,) = plain_optimizer.param_groups
    assert group["max_lr"] == 1.0
    assert group["weight_decay"] == (WEIGHT_DECAY if optimizer == "adamw" else 0.0)
    assert (group["fused"] is True) == (optimizer == "adamw")
    assert group.get("momentum", 0.9) == 0.9
    # It climbs from 1e-8, and falls with the schedule.
    assert outcome.lrs[0] < 1e-4 < max(outcome.lrs)
    assert outcome.lrs[-1] < 1e-3 * max(outcome.lrs)
    assert outcome.held_out < plain(problem(optimizer, 200), regression, 1e-5, 0).held_out
