"""A run folder with made-up numbers: twelve configurations, two seeds, known results.

`warm-init` becomes NaN and `baseline-high` huge; seed 1 of `ddp-mid-2` is unfinished,
its last line torn; the label of `averaging-only` would be markup if not escaped.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.records import Configuration, RunFolder, Settings
from benchmarks.core.files import write_json

STEPS, SYNC, AUTO, REPLICAS = 200, 10, 60, 8
GROUPS = ["embedding", "no_decay", "non_embedding", "transformer"]
ROWS = [
    Configuration("baseline-low", "Baseline-Low: DDP, no spread", "paper", 1e-2),
    Configuration("baseline-high", "Baseline-High: DDP, no spread", "paper", 9e-2),
    Configuration(
        "warm-init", "Warm-Init: noisy start, no averaging", "paper", 9e-2,
        warm_start=True,
    ),
    Configuration(
        "hdet-no-auto-lr", "HDET without auto-LR", "paper", 9e-2, 1 / 9, True,
        warm_start=True,
    ),
    Configuration(
        "hdet-no-warm-start", "HDET without warm start", "paper", 9e-2, 1 / 9, True,
        True,
    ),
    Configuration(
        "hdet-full", "HDET (full)", "paper", 9e-2, 1 / 9, True, True, True, True,
    ),
    Configuration(
        "ddp-warm-low", "DDP at the low rate, warm", "control", 1e-2, warm_start=True
    ),
    Configuration("ddp-mid-1", "DDP at 2.1 times the low rate", "control", 2.1e-2),
    Configuration("ddp-mid-2", "DDP at 4.3 times the low rate", "control", 4.3e-2),
    Configuration(
        "averaging-only", "Averaging, <b>no</b> spread & $a_b", "control", 9e-2,
        average=True, warm_start=True,
    ),
    Configuration(
        "auto-lr-from-tenth", "HDET, auto-LR from a tenth of the low rate", "control",
        1e-3, 1 / 9, True, True, False,
    ),
    Configuration("ddp-tenth", "DDP at a tenth of the low rate", "control", 1e-3),
]  # fmt: skip
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
    "auto-lr-from-tenth": [3.350, 3.360],
    "ddp-tenth": [3.700, 3.710],
}


def fake_run(
    path: Path,
    losses: dict[str, list[float | None]] = LOSSES,
    steps: int = STEPS,
    auto_lr_after: int = AUTO,
    task: str = "fake",
    data: str | None = None,
) -> RunFolder:
    """Write the folder; `losses` are the results, and where the curves end."""
    rows = [row for row in ROWS if row.name in losses]
    settings = Settings(
        task, "made-up bytes, cross-entropy (nats)", GROUPS, REPLICAS, steps, 2, SYNC,
        auto_lr_after, 1 / 9, 0.1, 0.5, 0.9, 0.01, 50, data, rows,
    )  # fmt: skip
    folder = RunFolder(path)
    folder.create(settings)
    for row in rows:
        for seed, loss in enumerate(losses[row.name]):
            _write_run(folder, settings, row, seed, loss)
    return folder


def _write_run(
    folder: RunFolder, settings: Settings, row: Configuration, seed: int,
    loss: float | None,
) -> None:  # fmt: skip
    done = settings.steps if loss is not None else settings.steps * 2 // 5
    lines = _lines(settings, row, seed, 3.3 if loss is None else loss, done)
    run = folder.run(row.name, seed)
    run.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text if loss is not None else text[:-9])
    if loss is not None:
        result = {
            "train_loss": loss,
            "held_out_loss": loss + 0.1,
            "diverged": row.name in ("baseline-high", "warm-init"),
            "mean_lr": row.lr / 2,
            "final_lr": row.lr / 400,
            "seconds": 12.0 + seed,
            "sync_share": 0.03 if row.average else 0.0,
        }
        write_json(run / "result.json", result)


def _lines(
    settings: Settings, row: Configuration, seed: int, end: float, steps: int
) -> list[dict[str, Any]]:
    noise = np.random.default_rng([seed, len(row.name)])
    even = 1 + row.spread * np.linspace(-1, 1, settings.replicas)
    rho = np.array([even] * len(GROUPS))
    lines: list[dict[str, Any]] = []
    acted = False
    base, window = 0.0, []
    for step in range(1, steps + 1):
        part = step / settings.steps
        if not acted:
            rise = min(1, part / 0.3)
            fall = max(0.0, part - 0.3) / 0.7
            base = row.lr * (0.04 + 0.96 * rise) * (0.5 + 0.5 * math.cos(3.13 * fall))
        target = 4.0 + 8 * part if math.isnan(end) else end
        loss = target + (5.6 - target) * math.exp(-12 * part)
        losses = loss + 0.05 * noise.standard_normal(settings.replicas)
        if math.isnan(end) and part > 0.6:
            losses[:] = math.nan
        window.append(losses)
        scale = [1.0, 0.8, 1.2, 1.0]
        rates = [[base * s * x for x in r] for s, r in zip(scale, rho, strict=True)]
        lines.append(
            {
                "kind": "step",
                "step": step,
                "losses": losses.tolist(),
                "base_lr": [base * s for s in scale],
                "replica_lr": rates,
            }
        )
        if row.average and step % settings.sync_every == 0:
            means = np.mean(window, axis=0)
            window = []
            sync: dict[str, Any] = {"kind": "sync", "step": step}
            sync |= {"losses": means.tolist(), "masked": [], "sync_ms": 1.5}
            sync["divergence"] = (0.01 * abs(rho[0] - 1) + 1e-4).tolist()
            if row.auto_lr and step >= settings.auto_lr_after:
                acted = True
                weights = np.exp(-(means - means.min()) / 0.1)
                weights /= weights.sum()
                deltas = base * np.array(scale) * (rho @ weights - 1)
                sync |= {"weights": weights.tolist(), "delta": deltas.tolist()}
                base = 0.93 * base + 0.5 * deltas[0]
                rho = noise.permuted(rho, axis=1)
            sync["base_lr"] = [base * s for s in scale]
            sync["replica_lr"] = rates
            lines.append(sync)
    return lines
