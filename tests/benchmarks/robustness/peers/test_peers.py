"""Every peer: it trains, repeats, leaves no trace, and takes its start or asks for none."""

import math
import sys

import pytest
import torch

from benchmarks.robustness.methods import LABELS, START_FREE, all_methods
from benchmarks.robustness.peers import PEERS
from benchmarks.robustness.problems import load
from tests.benchmarks.robustness.peers.common import MODULES, Quadratic, of, problem

STEPS = 200
# What is left of the way from the initial loss to the noise, 0.25, at most. CDAT at sigma 2,
# ScheduleFree+ at its defaults and AdaLRS do badly on a model this small.
LEFT = {"cdat": 0.5, "schedule-free-plus": 0.9, "adalrs": 0.9, "d-adaptation": 0.5, "dog": 0.5}


@pytest.fixture(scope="module")
def regression():
    return load(problem("sgd", STEPS))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", of(PEERS))
def test_each_peer_trains_regression_and_leaves_no_trace(name, optimizer, regression, capfd):
    asked = problem(optimizer, STEPS)
    state = torch.get_rng_state()
    outcome = PEERS[name](asked, regression, asked.centre, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")
    left = (outcome.held_out - 0.25) / (outcome.initial - 0.25)
    assert left < LEFT.get(name, 0.25)
    assert outcome.steps[-1] == (STEPS // 3 * 3 if name == "budget-sweep" else STEPS)
    assert len(outcome.lrs) == len(outcome.steps)
    assert all(math.isfinite(rate) and rate >= 0 for rate in outcome.lrs)
    assert outcome.seconds > 0


@pytest.mark.parametrize("name", of(PEERS))
def test_a_run_repeats_and_only_the_start_free_end_the_same_from_each_start(name, regression):
    asked = problem("adamw", 30)
    ends = [PEERS[name](asked, regression, lr, 0).lrs for lr in (1e-3, 1e-3, 3e-3)]
    assert ends[0] == ends[1]
    # The calibrated rate is what the study gives it.
    assert (ends[0] == ends[2]) == (name in START_FREE and name != "calibrated")


@pytest.mark.parametrize("name", of(name for name in PEERS if name not in START_FREE))
def test_a_diverged_run_ends_in_nan_or_infinity(name):
    asked = problem("sgd", 30, "quadratic")
    lr = 1e22 if name == "budget-sweep" else 1e20
    end = PEERS[name](asked, Quadratic(), lr, 0).held_out
    # MoMo's model of the loss caps the step; AdaLRS goes back.
    assert name in ("momo", "adalrs") or not math.isfinite(end)


def test_every_peer_has_a_label_and_every_label_a_method():
    assert list(all_methods()) == list(LABELS)
    assert set(PEERS) <= set(LABELS)
    assert set(LABELS) >= START_FREE


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_package_is_named_with_its_extra(name, regression, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    remedy = rf"`{MODULES[name]}`: pip install --editable benchmarks"
    with pytest.raises(ImportError, match=remedy):
        PEERS[name](problem("adamw", 5), regression, 1e-2, 0)
