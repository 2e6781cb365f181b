"""Results that nobody computed: every number is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bilevel.study import Folder, Plan, Unit, units

# Those of MAID's losses; the fixed accuracies depend on the start.
FACTORS = {
    "maid": 1.0,
    "maid-certified": 1.1,
    "maid-monotone": 1.2,
    "maid-paper": 1.5,
    "hoag-exponential": 2.0,
    "hoag-quadratic": 2.5,
    "hoag-cubic": 3.0,
    "dfo-ls": 1.4,
    "finite-differences": 2.2,
    "certified": 24.0,
    "plain": 27.0,
}
METHODS = [name for name in FACTORS if name.startswith(("maid", "hoag"))]
METHODS += ["fixed", "fixed-paper"]
FIXED = {1e-1: 4.0, 1e-3: 0.99, 1e-5: 1.3}
_IMAGES = {"psnr": 25.0, "test_psnr": 24.0, "test_loss": 1.5}
_NOISY = {"noisy_psnr": 20.1, "noisy_test_psnr": 20.0}
JUDGED: dict[str, dict[str, float]] = {
    "quadratic": {},
    "logistic": {"test_loss": 0.2, "test_accuracy": 96.0},
    "tv": _IMAGES | _NOISY,
    "foe": _IMAGES | _NOISY,
}


def outcome(unit: Unit, loss: float | None, **more: Any) -> dict:
    """Return a run's numbers; those not given are plain."""
    judged = JUDGED[unit.task]
    middle = [unit.budget // 2, 2.0 if loss is None else 2 * loss, unit.start / 10]
    found = {
        "status": "BUDGET",
        "stuck": False,
        "failure": "",
        "judged": {"loss": loss, **judged},
        "start": {"loss": 50.0, **judged},
        "steps": 40,
        "failed_searches": 3,
        "counts": {"gradients": unit.budget},
        "cost": unit.budget,
        "trajectory": [[0, 50.0, unit.start], middle],
        "seconds": 2.0,
        "title": f"made-up {unit.task}",
        "parameters": 10,
    }
    return {**found, **more}


def loss_of(unit: Unit) -> float:
    """Return a loss that grows with every seed, and a little with every start of MAID's."""
    factor = FACTORS.get(unit.method) or FIXED[unit.start]
    # Not the same ratio with every seed, so that intervals are not points.
    factor *= 1 + 0.002 * unit.seed * (unit.method != "maid")
    return factor * (1 + 0.1 * unit.seed) * (1.004 if unit.start == 1e-5 else 1.0)


def of_unit(unit: Unit) -> dict:
    """Return a run: those of the loosest fixed accuracy stop early."""
    if unit.experiment == "crossover":
        # The fixed accuracy is cheaper below a condition number of 10.
        outer = 2 if unit.method != "fixed" else unit.condition // 5 + 1
        made = {"outer": outer, "descent": 10 * outer, "cost": 20 * outer}
        return made | {"reached": unit.method != "maid-newton", "seconds": 1.0}
    if unit.method in {"maid-certified", "certified"}:
        return outcome(unit, loss_of(unit), failed_searches=0)
    if unit.method.startswith("fixed") and unit.start == 1e-1:
        return outcome(unit, loss_of(unit), status="LINE_SEARCH", stuck=True, steps=4, cost=20)
    return outcome(unit, loss_of(unit))


def folder_of(path: Path, plan: Plan, make: Callable[[Unit], dict | None] = of_unit) -> Folder:
    """Write a folder with the results of a function; None leaves a run out."""
    folder = Folder(path)
    folder.create(plan)
    with open(path / "results.jsonl", "w") as file:
        for unit in units(plan):
            if (made := make(unit)) is not None:
                file.write(json.dumps({"key": unit.key, **made}) + "\n")
    return folder
