"""Results that nobody computed: every number is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bilevel.study import Folder, Plan, Unit, units

# Of MAID's losses; those of the fixed accuracies depend on the start.
FACTORS = {"maid": 1.0, "maid-paper": 1.5, "hoag-exponential": 2.0, "hoag-cubic": 3.0}
FACTORS |= {"certified": 24.0, "plain": 27.0}
FIXED = {1e-1: 4.0, 1e-3: 0.99, 1e-5: 1.3}
METHODS = ["maid", "maid-paper", "fixed", "fixed-paper", "hoag-exponential", "hoag-cubic"]


def outcome(unit: Unit, loss: float | None, **more: Any) -> dict[str, Any]:
    """Return a run's numbers; those not given are plain."""
    measures = {"psnr": 25.0, "test_psnr": 24.0} if unit.task == "tv" else {}
    found = {
        "status": "BUDGET",
        "stuck": False,
        "failure": "",
        "judged": {"loss": loss, **measures},
        "start": {"loss": 50.0, **measures},
        "steps": 40,
        "failed_searches": 3,
        "cost": unit.budget,
        "trajectory": [[0, 50.0, unit.start], [unit.budget // 2, 2.0, unit.start / 10]],
        "seconds": 2.0,
        "title": f"made-up {unit.task}",
        "parameters": 10,
    }
    return {**found, **more}


def of_unit(unit: Unit) -> dict[str, Any]:
    """Return a run whose loss grows with every seed, and a little from the last start.

    The loosest fixed accuracies stop early; in the crossover the fixed accuracy is cheaper
    below a condition number of 10, and Newton-CG does not get there.
    """
    if unit.experiment == "crossover":
        outer = 2 if unit.method != "fixed" else unit.condition // 5 + 1
        made = {"outer": outer, "descent": 10 * outer, "cost": 20 * outer}
        return made | {"reached": unit.method != "maid-newton", "seconds": 1.0}
    # Not the same ratio with every seed, so that intervals are not points.
    factor = FACTORS.get(unit.method) or FIXED[unit.start]
    factor *= 1 + 0.002 * unit.seed * (unit.method != "maid")
    loss = factor * (1 + 0.1 * unit.seed) * (1.004 if unit.start == 1e-5 else 1.0)
    if unit.method.startswith("fixed") and unit.start == 1e-1:
        return outcome(unit, loss, status="LINE_SEARCH", stuck=True, steps=4, cost=20)
    return outcome(unit, loss)


def folder_of(
    path: Path, plan: Plan, make: Callable[[Unit], dict[str, Any] | None] = of_unit
) -> Folder:
    """Write a folder with the results of a function; None leaves a run out."""
    folder = Folder(path)
    folder.create(plan)
    with open(path / "results.jsonl", "w") as file:
        for unit in units(plan):
            if (made := make(unit)) is not None:
                file.write(json.dumps({"key": unit.key, **made}) + "\n")
    return folder
