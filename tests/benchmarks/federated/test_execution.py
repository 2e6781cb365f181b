"""A run of the federated benchmark: its numbers, and what a diverged one counts as."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("sklearn")

from benchmarks.federated.execution import outcome
from benchmarks.federated.runs.settings import Settings
from benchmarks.federated.units import Unit

SMALL = Settings(task="digits", clients=10, count=5, rounds=3, steps=3, batch=8)


def test_a_run_gives_the_same_numbers_again() -> None:
    first, second = (outcome(Unit("rates", SMALL)) for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert (first["diverged"], len(first["accuracies"])) == (False, 3)
    assert first["last"] == pytest.approx(sum(first["accuracies"]) / 3, abs=0.01)
    assert first["bytes_down"] > 0


@pytest.mark.parametrize("strategy", ["fedavg", "fedhyper", "fedexp", "delta-sgd"])
def test_a_run_that_diverges_counts_as_one_that_guesses(strategy: str) -> None:
    made = outcome(Unit("rates", replace(SMALL, strategy=strategy, local_rate=1e30)))
    assert made["diverged"]
    assert (made["accuracies"], made["last"]) == ([10.0] * 3, 10.0)
    assert (made["worst_class"], made["late_deviation"]) == (0.0, 0.0)
    json.dumps(made, allow_nan=False)
