"""A run folder with made-up numbers: twelve configurations, two seeds, known results.

`warm-init` becomes NaN and `baseline-high` huge; seed 1 of `ddp-mid-2` is unfinished,
its last line torn; the label of `averaging-only` would be markup if not escaped.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.configurations import configurations
from benchmarks.compare.records import Configuration, Result, RunFolder, Settings
from benchmarks.core.files import append, write_json
from benchmarks.tasks.digits import DigitsTask

STEPS, SYNC, AUTO, REPLICAS = 200, 10, 60, 8
GROUPS = ["hidden", "no_decay"]
ROWS = [
    replace(row, label="Averaging, <b>no</b> spread & $a_b")
    if row.name == "averaging-only"
    else row
    for row in configurations(DigitsTask(), 1 / 9)
]
# The training losses of seeds 0 and 1; None is a run that has not finished.
LOSSES: dict[str, list[float | None]] = {
    "baseline-low": [3.294, 3.298],
    "baseline-high": [41.69, 43.11],
    "warm-init": [math.nan, 4.674],
    "hdet-no-auto-lr": [3.280, 3.282],
    "hdet-no-warm-start": [3.281, 3.285],
    "hdet-full": [3.277, 3.279],
    "ddp-warm-low": [3.270, 3.290],
    "ddp-mid-1": [3.270, 3.276],
    "ddp-mid-2": [3.300, None],
    "averaging-only": [3.279, 3.281],
    "ddp-tenth": [3.700, 3.710],
    "auto-lr-from-tenth": [3.350, 3.360],
}


def fake_run(
    path: Path, losses: dict[str, list[float | None]] = LOSSES, steps: int = STEPS
) -> RunFolder:
    """Write the folder; `losses` are the results, and where the curves end."""
    rows = [row for row in ROWS if row.name in losses]
    settings = Settings(
        "fake", "made-up bytes, cross-entropy (nats)", GROUPS, REPLICAS, steps, 2, SYNC,
        AUTO, 1 / 9, 0.1, 0.5, 0.9, 0.01, 50, None, rows,
    )  # fmt: skip
    folder = RunFolder(path)
    folder.create(settings)
    for row in rows:
        for seed, loss in enumerate(losses[row.name]):
            _write_run(folder, settings, row, seed, loss)
    return folder


def _write_run(
    folder: RunFolder, settings: Settings, row: Configuration, seed: int, loss: float | None
) -> None:
    run = folder.run(row.name, seed)
    run.mkdir(parents=True)
    metrics = run / "metrics.jsonl"
    if loss is None:
        append(metrics, _lines(settings, row, 3.3, settings.steps * 2 // 5))
        metrics.write_text(metrics.read_text()[:-9])
        return
    append(metrics, _lines(settings, row, loss, settings.steps))
    share = 0.03 if row.average else 0.0
    diverged = row.name in ("baseline-high", "warm-init")
    result = Result(loss, loss + 0.1, diverged, row.lr / 2, row.lr / 400, 12.0 + seed, share)
    write_json(run / "result.json", asdict(result))


def _lines(
    settings: Settings, row: Configuration, end: float, steps: int
) -> list[dict[str, Any]]:
    """Return the lines of a run whose losses fall to `end`, at rates that do not change."""
    factors = 1 + row.spread * np.linspace(-1, 1, settings.replicas)
    rates = {
        "base_lr": [row.lr] * len(GROUPS),
        "replica_lr": [(row.lr * factors).tolist()] * len(GROUPS),
    }
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        part = step / settings.steps
        target = 4.0 if math.isnan(end) else end
        losses = target + (5.6 - target) * math.exp(-12 * part) + 0.05 * factors
        if math.isnan(end) and part > 0.6:
            losses[:] = math.nan
        lines.append({"kind": "step", "step": step, "losses": losses.tolist(), **rates})
        if row.average and step % settings.sync_every == 0:
            sync = {**lines[-1], "kind": "sync", "masked": [], "sync_ms": 1.5}
            sync["divergence"] = (0.01 * abs(factors - 1) + 1e-4).tolist()
            if row.auto_lr and step >= settings.auto_lr_after:
                sync["weights"] = [1 / settings.replicas] * settings.replicas
                sync["delta"] = [0.1 * row.lr] * len(GROUPS)
            lines.append(sync)
    return lines
