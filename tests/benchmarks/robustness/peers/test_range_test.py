"""The range test: which rate it suggests, what it costs, and what follows."""

import pytest

from benchmarks.robustness.loop import plain
from benchmarks.robustness.peers import range_test
from benchmarks.robustness.peers.range_test import lr_finder, suggested_lr
from benchmarks.robustness.problems import load
from tests.benchmarks.robustness.peers.common import needs, problem

pytestmark = needs("lr-finder")


@pytest.fixture(scope="module")
def regression():
    return load(problem("sgd", 30))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_its_passes_are_counted(optimizer, regression):
    calls = []

    class Counted(type(regression)):
        def loss(self, model, batch):
            if model.training:
                calls.append(1)
            return super().loss(model, batch)

    asked = problem(optimizer, 30)
    lr, steps = suggested_lr(asked, Counted(), 0)
    assert steps == len(calls) <= range_test.STEPS
    assert 1e-6 < lr < 10
    outcome = lr_finder(asked, regression, 1e-2, 0)
    assert outcome.forwards == 3 * steps
    expected = plain(asked, regression, lr, 0)
    assert (outcome.held_out, outcome.lrs) == (expected.held_out, expected.lrs)


def test_the_suggestion_is_where_the_smoothed_loss_falls_fastest(regression):
    lr, _ = suggested_lr(problem("sgd", 30), regression, 0)
    # The rates are 1e-7 to 10 in 100 steps; the same test by plain steps.
    import numpy as np
    import torch

    from benchmarks.robustness.problems import global_batch, new_model

    model, rates, found = new_model(regression, 0), np.geomspace(1e-7, 10, 100), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7, momentum=0.9)
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = float(rate)
        loss = regression.loss(model, global_batch(regression, 0, step % 30))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
        if step:
            found[-1] = 0.05 * found[-1] + 0.95 * found[-2]
        if found[-1] > 5 * min(found):
            break
    kept = slice(10, len(found) - 5)
    assert lr == pytest.approx(rates[kept][np.gradient(found[kept]).argmin()])
