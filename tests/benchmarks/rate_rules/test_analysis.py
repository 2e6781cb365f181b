"""What the page says of a record whose answers are known."""

import pytest

from benchmarks.rate_rules.analysis import regrets, sweep_regrets, trial_ratios

PROBLEM = {
    "model": "tiny",
    "best": 2e-3,
    "sweep": {"rates": [1e-3, 2e-3, 4e-3], "held out": [[2.2, 2.2], [2.0, 2.0], [None, 2.0]]},
    "rules": {"base": {"held out": [[2.1, 2.1], [2.2, 2.0]]}},
}


def test_regrets_are_percent_over_the_best_rate_of_the_sweep() -> None:
    assert sweep_regrets(PROBLEM)[-1] == pytest.approx(10)
    found = regrets({"tiny": PROBLEM}).loc["base"]
    assert found["tiny", "mean"] == pytest.approx(5)
    assert found["tiny", "worst"] == pytest.approx(5)


def test_a_diverged_run_is_not_the_best() -> None:
    assert sweep_regrets(PROBLEM)[1] == float("inf")


def test_trials_are_compared_with_the_runs_of_their_model() -> None:
    trial = {
        "model": "tiny",
        "before": None,
        "rates": [1e-3, 4e-3],
        "losses": {"8": [3.0, 2.9]},
    }
    found = trial_ratios({"problems": {"tiny": PROBLEM}, "trials": [trial]})
    assert found == {"tiny, from the initial weights": {8: {"tiny": 2.0}}}
