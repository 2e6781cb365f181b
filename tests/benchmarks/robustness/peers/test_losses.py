"""MoMo: its settings, its cap, and that it has the loss."""

import warnings
from unittest.mock import patch

import pytest

from benchmarks.robustness.peers import losses
from benchmarks.robustness.peers.training import packaged
from benchmarks.robustness.problems import WEIGHT_DECAY, load
from tests.benchmarks.robustness.peers.common import Quadratic, needs, problem

pytestmark = needs("momo")


@pytest.mark.parametrize(("optimizer", "kind"), [("adamw", "MomoAdam"), ("sgd", "Momo")])
def test_settings_reach_the_package(optimizer, kind):
    made = []

    def build(*args, **settings):
        made.append(packaged(*args, **settings))
        return made[-1]

    task = load(problem(optimizer, 5))
    with patch.object(losses, "packaged", build):
        losses.momo(problem(optimizer, 5), task, 1e-2, 0)
    (found,) = made
    assert type(found).__name__ == kind
    assert found.use_fstar
    assert found.lb >= 0
    (group,) = found.param_groups
    # MoMo averages gradients with weight 0.1, so its rate is ten times that of torch's SGD.
    assert group["max_lr"] == pytest.approx(1e-2 if optimizer == "adamw" else 1e-1)
    assert group["weight_decay"] == (WEIGHT_DECAY if optimizer == "adamw" else 0.0)


def test_a_rate_far_too_high_is_capped_by_the_model_of_the_loss():
    end = losses.momo(problem("sgd", 200, "quadratic"), Quadratic(), 1e3, 0)
    assert end.held_out < 0.1 * end.initial


def test_several_groups_do_not_warn():
    task = load(problem("adamw", 3, "embedding"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses.momo(problem("adamw", 3, "embedding"), task, 1e-2, 0)
