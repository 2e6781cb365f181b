"""What a comparison found: each configuration over its seeds, and pairs of them seed by seed.

The paper (HDET, arXiv 2604.24708) reports one run a configuration; here a row has the mean
over seeds and its standard error. All configurations of a seed begin at the same weights (warm
ones at the same checkpoint) and read the same batches, so two rows are compared seed by seed.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

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
# The rows that the README shows.
_README = (
    "baseline-low", "baseline-high", "hdet-no-auto-lr", "hdet-full", "ddp-mid-1",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One configuration over its finished seeds; NaN (in JSON, null) for what is not finite.

    Rates, losses and times are means over seeds; errors are NaN with one seed.
    """

    name: str
    configuration: str  # its label
    seeds: int  # how many have finished
    mean_lr: float  # of the base learning rate, over steps
    final_lr: float
    train_loss: float
    train_error: float
    held_out_loss: float
    held_out_error: float
    diverged: int  # how many seeds did
    seconds: float
    sync_share: float
    warm_start: bool  # whether it had the checkpoint's steps on top of its own
    losses: dict[str, float]  # the training loss by seed


def summarise(folder: RunFolder) -> list[Row]:
    """Return a row for each configuration with a finished run, in the table's order."""
    rows = []
    for configuration in folder.plan().configurations:
        found = folder.results(configuration.name)
        if not found:
            continue
        results = pd.DataFrame([asdict(result) for result in found.values()])
        by = {name: estimate(results[name].astype(float)) for name in results}
        rows.append(
            Row(
                name=configuration.name,
                configuration=configuration.label,
                seeds=len(found),
                mean_lr=by["mean_lr"].mean,
                final_lr=by["final_lr"].mean,
                train_loss=by["train_loss"].mean,
                train_error=by["train_loss"].error,
                held_out_loss=by["held_out_loss"].mean,
                held_out_error=by["held_out_loss"].error,
                diverged=int(results["diverged"].sum()),
                seconds=by["seconds"].mean,
                sync_share=by["sync_share"].mean,
                warm_start=configuration.warm_start,
                losses={str(seed): result.train_loss for seed, result in found.items()},
            )
        )
    return rows


def compare(a: Row, b: Row) -> Estimate:
    """Return the training losses of `a` less those of `b`, over the seeds that both have."""
    common = [seed for seed in a.losses if seed in b.losses]
    return difference([a.losses[s] for s in common], [b.losses[s] for s in common])


def table(rows: Sequence[Row], paper: bool = False) -> pd.DataFrame:
    """Return the rows as texts, with the paper's own numbers beside ours if `paper`."""
    lines = []
    for row in rows:
        held_out = Estimate(row.held_out_loss, row.held_out_error, row.seeds)
        line = {
            "configuration": row.configuration,
            "mean LR": f"{row.mean_lr:.1e}",
            "train loss": f"{Estimate(row.train_loss, row.train_error, row.seeds):.4f}",
            "held-out loss": f"{held_out:.4f}",
            "diverged": f"{row.diverged} of {row.seeds}",
            "seconds": f"{row.seconds:.0f}",
            "in syncs": f"{row.sync_share:.0%}",
        }
        if paper:
            line["paper: mean LR"], line["paper: train loss"] = PAPER.get(row.name, ("", ""))
        lines.append(line)
    return pd.DataFrame(lines)


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
    """Return the numbers that docs/compare.md names."""
    rows = {row.name: row for row in _recorded()}
    return {
        "settings": json.loads((_RECORD / "config.json").read_text()),
        "versions": json.loads((_RECORD / "environment.json").read_text()),
        "rows": table(list(rows.values())),
        "row": rows,
        "less": lambda a, b: compare(rows[a], rows[b]),
    }


def readme() -> str:
    """Return the line of losses that README.md shows."""
    rows = {row.name: row for row in _recorded()}
    losses = [
        Estimate(r.train_loss, r.train_error, r.seeds) for r in map(rows.get, _README) if r
    ]
    return f"| {' | '.join(f'{loss:.3f}' for loss in losses)} |"


def _recorded() -> list[Row]:
    content = json.loads((_RECORD / "summary.json").read_text())
    return [
        Row(**{key: math.nan if value is None else value for key, value in row.items()})
        for row in content["rows"]
    ]
