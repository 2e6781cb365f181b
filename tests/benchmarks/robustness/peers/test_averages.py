"""Schedule-free peers: settings, and that y is trained while x is evaluated."""

from unittest.mock import patch

import pytest
import torch

from benchmarks.robustness.peers import averages
from benchmarks.robustness.peers.polyak import ScheduleFreePlus
from benchmarks.robustness.peers.training import packaged
from benchmarks.robustness.problems import WEIGHT_DECAY, load
from benchmarks.tasks.regression import RegressionTask
from tests.benchmarks.robustness.peers.common import needs, of, problem

METHODS = {
    "schedule-free": averages.schedule_free,
    "schedule-free-plus": averages.schedule_free_plus,
    "prodigy-schedule-free": averages.prodigy_schedule_free,
}


@pytest.fixture(scope="module")
def regression():
    return load(problem("sgd", 60))


def made_by(method, optimizer, task, steps=60):
    """Return the optimizer that a method builds."""
    made = []

    def keep(build):
        def built(*args, **settings):
            made.append(build(*args, **settings))
            return made[-1]

        return built

    with (
        patch.object(averages, "packaged", keep(packaged)),
        patch.object(averages, "ScheduleFreePlus", keep(ScheduleFreePlus)),
    ):
        method(problem(optimizer, steps), task, 1e-2, 0)
    return made[0]


@needs("schedule-free")
def test_schedule_free_has_warm_up_and_the_start(regression):
    adamw = made_by(averages.schedule_free, "adamw", regression)
    assert type(adamw).__name__ == "AdamWScheduleFree"
    (group,) = adamw.param_groups
    assert (group["lr"], group["warmup_steps"]) == (1e-2, 3)
    assert group["weight_decay"] == WEIGHT_DECAY
    sgd = made_by(averages.schedule_free, "sgd", regression)
    assert type(sgd).__name__ == "SGDScheduleFree"
    assert (sgd.param_groups[0]["lr"], sgd.param_groups[0]["weight_decay"]) == (0.1, 0.0)


@needs("prodigy-schedule-free")
def test_prodigy_with_schedule_free_is_at_its_defaults(regression):
    made = made_by(averages.prodigy_schedule_free, "adamw", regression)
    (group,) = made.param_groups
    assert type(made).__name__ == "ProdigyPlusScheduleFree"
    assert (group["lr"], group["d0"], group["weight_decay"]) == (1.0, 1e-6, WEIGHT_DECAY)
    assert group["use_schedulefree"]
    assert group["use_stableadamw"]
    assert group["d_limiter"]
    assert not group["use_speed"]
    assert not group["use_bias_correction"]


def test_schedule_free_plus_warms_up_and_has_the_advised_decay(regression):
    made = made_by(averages.schedule_free_plus, "sgd", regression)
    (group,) = made.param_groups
    assert (group["initial_lr"], group["lr"], group["weight_decay"]) == (1.0, 1.0, 20.0)
    rates = averages.schedule_free_plus(problem("sgd", 60), regression, 0.0, 0).lrs
    assert rates[0] < rates[1]


@pytest.mark.parametrize("name", of(METHODS))
def test_gradients_are_taken_at_y_and_the_held_out_loss_at_the_average(name):
    """The two differ, and the modes alternate; no step is taken where it is evaluated."""
    trained, evaluated = [], []

    class Seen(RegressionTask):
        def loss(self, model, batch):
            weights = torch.cat([p.detach().flatten() for p in model.parameters()])
            (trained if torch.is_grad_enabled() else evaluated).append(weights)
            return super().loss(model, batch)

    task = Seen()
    steps = 60
    METHODS[name](problem("sgd", steps), task, 1e-2, 0)
    assert len(trained) == steps
    # What is evaluated after a step is not where the next gradient is taken ...
    after_30 = evaluated[len(evaluated) // 31 * 16 - 1]
    assert not torch.equal(after_30, trained[32])
    # ... and evaluating leaves no trace in the training.
    torch.testing.assert_close(trained[32], _trained_without_readings(name, steps, 32))


def _trained_without_readings(name, steps, at):
    seen = []

    class Blind(RegressionTask):
        def loss(self, model, batch):
            if torch.is_grad_enabled():
                seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
            return super().loss(model, batch)

    with patch("benchmarks.robustness.loop.reading_steps", lambda steps: [steps]):
        METHODS[name](problem("sgd", steps), Blind(), 1e-2, 0)
    return seen[at]
