"""What a comparison found: each configuration over its seeds, and pairs of them seed by seed.

The paper (HDET, arXiv 2604.24708) reports one run a configuration; here a row has the mean
over seeds and its standard error. All configurations of a seed begin at the same weights (warm
ones at the same checkpoint) and read the same batches, so two rows are compared seed by seed.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from ..core.parsing import nan_for_null
from ..core.records import RECORDS
from ..core.statistics import Estimate, difference, estimate
from .records import RunFolder

_RECORD = RECORDS / "compare-text"
# Mean learning rate and training loss as the paper's table has them; + is its own mark
# for a run that diverged.
PAPER = {
    "baseline-low": ("0.0001", "3.294"),
    "baseline-high": ("0.0009", "4.169+"),
    "warm-init": ("0.0009", "4.674+"),
    "hdet-no-auto-lr": ("0.0009", "3.280"),
    "hdet-no-warm-start": ("0.0009", "3.281"),
    "hdet-full": ("0.0009", "3.277"),
}


def summarise(folder: RunFolder) -> list[dict[str, Any]]:
    """Return a row for each configuration with a finished run, in the table's order.

    Rates, losses and times are means over the finished `seeds`, errors standard errors; NaN
    (in JSON, null) stands for what is not finite. `losses` has the training loss by seed, and
    `warm_start` whether the checkpoint's steps came on top.
    """
    rows = []
    for configuration in folder.plan().configurations:
        found = folder.results(configuration.name)
        if not found:
            continue
        results = pd.DataFrame([asdict(result) for result in found.values()])
        by = {name: estimate(results[name].astype(float)) for name in results}
        rows.append(
            {
                "name": configuration.name,
                "configuration": configuration.label,
                "seeds": len(found),
                "mean_lr": by["mean_lr"].mean,
                "final_lr": by["final_lr"].mean,
                "train_loss": by["train_loss"].mean,
                "train_error": by["train_loss"].error,
                "held_out_loss": by["held_out_loss"].mean,
                "held_out_error": by["held_out_loss"].error,
                "diverged": int(results["diverged"].sum()),
                "seconds": by["seconds"].mean,
                "sync_share": by["sync_share"].mean,
                "warm_start": configuration.warm_start,
                "losses": {str(seed): result.train_loss for seed, result in found.items()},
            }
        )
    return rows


def compare(a: Mapping[str, float], b: Mapping[str, float]) -> Estimate:
    """Return the losses of `a` less those of `b`, over the seeds that both have."""
    common = [seed for seed in a if seed in b]
    return difference([a[seed] for seed in common], [b[seed] for seed in common])


def table(rows: Iterable[dict[str, Any]], paper: bool = False) -> pd.DataFrame:
    """Return the rows as texts, with the paper's own numbers beside ours if `paper`."""
    lines = []
    for row in rows:
        line = {
            "configuration": row["configuration"],
            "mean LR": f"{row['mean_lr']:.1e}",
            "train loss": f"{_loss(row):.4f}",
            "held-out loss": f"{_loss(row, 'held_out'):.4f}",
            "diverged": f"{row['diverged']} of {row['seeds']}",
            "seconds": f"{row['seconds']:.0f}",
            "in syncs": f"{row['sync_share']:.0%}",
        }
        if paper:
            numbers = PAPER.get(row["name"], ("", ""))
            line["paper: mean LR"], line["paper: train loss"] = numbers
        lines.append(line)
    return pd.DataFrame(lines)


def _loss(row: dict[str, Any], kind: str = "train") -> Estimate:
    return Estimate(row[f"{kind}_loss"], row[f"{kind}_error"], row["seeds"])


def missing(folder: RunFolder) -> list[str]:
    """Name the runs that were asked for and have no result yet."""
    settings = folder.plan()
    return [
        f"{row.label}, seed {seed}"
        for row in settings.configurations
        for seed in range(settings.seeds)
        if folder.result(row.name, seed) is None
    ]


def values() -> dict[str, Any]:
    """Return the numbers that docs/results/compare.md names."""
    rows = _recorded()
    return {
        "settings": json.loads((_RECORD / "config.json").read_text()),
        "versions": json.loads((_RECORD / "environment.json").read_text()),
        "rows": pd.DataFrame(
            {
                "configuration": row["configuration"],
                "mean rate": f"{row['mean_lr']:.2g}",
                "train": f"{_loss(row):.3f}",
                "held-out": f"{_loss(row, 'held_out'):.3f}",
            }
            for row in rows.values()
        ),
        "less": lambda a, b: compare(rows[a]["losses"], rows[b]["losses"]),
    }


def _recorded() -> dict[str, dict[str, Any]]:
    content = json.loads((_RECORD / "summary.json").read_text())
    return {row["name"]: nan_for_null(row) for row in content["rows"]}
