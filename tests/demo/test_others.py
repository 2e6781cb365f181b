"""The federated and the bilevel demo, in short."""

import io

import pytest

pytest.importorskip("plotly")
pytest.importorskip("sklearn")

from rich.console import Console

from hdet.demo import bilevel, federated


def test_fedhyper_beside_fedavg() -> None:
    page = federated.run(Console(file=io.StringIO()), seed=0, length=0.06)
    assert [run.ours for run in page.runs] == [False, True] * 3
    for run in page.runs:
        assert run.x == [1, 2, 3]
        rates, mean = run.curves[federated.RATE], sum(run.curves[federated.ACCURACY]) / 3
        # FedAvg keeps the rate, FedHyper begins at the same and moves it.
        start = federated.RIGHT_RATE * federated.FACTORS[run.start]
        assert rates[0] == pytest.approx(start)
        assert (rates == [rates[0]] * 3) is not run.ours
        assert run.cells[2] == f"{mean:.1f} %"
    best = max(float(run.cells[2][:-2]) for run in page.runs if not run.ours)
    for run in page.runs:
        points = float(run.cells[3].removesuffix(" points"))
        assert points == pytest.approx(float(run.cells[2][:-2]) - best, abs=0.11)


def test_maid_beside_grid_search_at_equal_cost() -> None:
    page = bilevel.run(Console(file=io.StringIO()), seed=0, length=0.2)
    *ours, grid = page.runs
    assert [run.method for run in ours] == ["MAID"] * 3
    assert all(0 < run.x[-1] <= 0.2 * bilevel.BUDGET for run in page.runs if run.x)
    best = grid.curves[bilevel.VALIDATION]
    assert best == sorted(best, reverse=True)
    # The grid chose one penalty for all features, which its own best loss was found with.
    assert grid.cells[0] == grid.cells[1]
    assert float(grid.cells[2]) == pytest.approx(best[-1], abs=2e-3)
    assert grid.cells[-1] == "+0.0 %"
    for run in ours:
        percent = 100 * (float(run.cells[3]) / float(grid.cells[3]) - 1)
        assert float(run.cells[4].removesuffix(" %")) == pytest.approx(percent, abs=0.5)
