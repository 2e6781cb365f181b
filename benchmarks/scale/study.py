"""What more replicas buy: the signal and the regret with 4 to 512 of them.

    python -m benchmarks scale

The global batch is fixed and dealt out to the replicas, so the shared gradient, the best rate
and the plain runs are the same for every N. One small problem, four kinds of runs:

- **plain** at a sweep of peak rates; regret is over its best rate with the same seed, and so
  the same batches;
- **held**: replicas around a fixed rate, which nothing moves. At each sync between 15 and 70 %
  of the run the t-statistic of the slope is read from four kinds of losses (`SIGNALS`);
- **explorer** and **unprobed**: Explorer as it is, from wrong starts, with and without probe.

Runs take turns in one process, and each is appended to a file when it is done: a run of this
script that was stopped goes on from there. Writes records/scale.json.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from hdet.replica.explorer.attribution import confidence

from ..core.files import append, read_lines
from ..core.records import write_record
from ..core.statistics import estimate
from .runs import BATCH, PHASE, SIGNALS, STEPS, SYNC_EVERY, TASK, run

SWEEP = [0.005, 0.009, 0.016, 0.028, 0.05, 0.09, 0.16, 0.28, 0.5, 0.9]
# How many of each kind of run, for each N.
SEEDS = {
    "explorer": {4: 8, 8: 8, 64: 4, 512: 3},
    "held": {4: 8, 8: 8, 64: 4, 512: 2},
    "unprobed": {4: 8, 8: 8, 64: 4, 512: 2},
    "other spreads": {8: 8, 64: 3},
}
DEFAULT_SPREAD = 0.3
SPREADS = [0.15, DEFAULT_SPREAD, 0.6]
RATES = [0.1, 1 / 3, 1.0, 3.0]  # of the held runs, in units of the sweep's best
SPREAD_RATES = [1 / 3, 3.0]  # likewise, with other spreads
STARTS = [0.1, 10.0]
FEW = 8  # replicas that the others are compared with
_PROGRESS = Path(tempfile.gettempdir()) / "hdet-scale.jsonl"


def mean_factor(replicas: int, spread: float) -> float:
    """Return the mean of the replicas' rates, in units of the base rate."""
    offsets = [2 * r / (replicas - 1) - 1 for r in range(replicas)]
    return statistics.fmean(math.exp(math.log1p(spread) * z) for z in offsets)


def plan(best: float) -> list[tuple]:
    """Return all runs beyond the sweep, the dear ones last."""
    work: list[tuple] = []
    for n in SEEDS["explorer"]:
        seeds = {kind: range(counts.get(n, 0)) for kind, counts in SEEDS.items()}
        some, others = seeds["other spreads"], [s for s in SPREADS if s != DEFAULT_SPREAD]
        held = [(n, DEFAULT_SPREAD, best * m, k) for m in RATES for k in seeds["held"]]
        held += [(n, s, best * m, k) for s in others for m in SPREAD_RATES for k in some]
        for _, spread, rate, seed in held:
            # What the replicas' weights are compared with: their base rate, and their mean.
            for factor in (1.0, mean_factor(n, spread)):
                work.append(("plain", 2, DEFAULT_SPREAD, rate * factor, seed))
        for kind in ("explorer", "held", "unprobed"):
            free = [(n, DEFAULT_SPREAD, best * m, k) for m in STARTS for k in seeds[kind]]
            work += [(kind, *one) for one in (held if kind == "held" else free)]
        spreads = [(n, s, best * m, k) for s in others for m in STARTS for k in some]
        work += [("explorer", *one) for one in spreads]
    return work


class Results:
    """Runs by what they are of, done once and kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, dict] = dict(read_lines(path, "remove it"))

    def __getitem__(self, work: tuple) -> dict:
        # The settings are part of the key, so that a file of other runs does no harm.
        key = json.dumps([TASK, BATCH, STEPS, SYNC_EVERY, *work])
        if key not in self.done:
            self.done[key] = run(*work)
            append(self.path, [[key, self.done[key]]])
        return self.done[key]


def mean_error(values: Sequence[float]) -> dict | None:
    """Return mean and standard error; None of fewer than two, or where a run diverged."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    found = estimate(values)
    return {"mean": found.mean, "error": found.error, "n": found.n}


def signal_rows(results: Results, cells: dict[tuple, list[int]], best: float) -> list[dict]:
    """Return what the t-statistics of the held runs were, for each signal."""
    rows, most = [], max(SEEDS["held"])
    for (kind, n, spread, rate), seeds in cells.items():
        for name in SIGNALS if kind == "held" else []:
            t = {k: results[kind, n, spread, rate, k]["t"][name] for k in seeds}
            most_seeds = cells.get((kind, most, spread, rate), [])
            same = []
            for k in set(most_seeds) & set(seeds):
                other = results[kind, most, spread, rate, k]["t"][name]
                pairs = zip(t[k], other, strict=True)
                same.append(statistics.fmean((a < 0) == (b < 0) for a, b in pairs))
            # Below the best rate a negative slope is right: a larger rate, a smaller loss.
            side = math.copysign(1, rate - best)
            right = [statistics.fmean(x * side > 0 for x in row) for row in t.values()]
            sure = [statistics.fmean(abs(confidence(x)) for x in row) for row in t.values()]
            rows.append(
                {
                    "signal": name,
                    "replicas": n,
                    "spread": spread,
                    "rate": rate / best,
                    "t": mean_error([statistics.fmean(row) for row in t.values()]),
                    "deviation of t": statistics.stdev(x for row in t.values() for x in row),
                    "median of abs t": statistics.median(
                        abs(x) for row in t.values() for x in row
                    ),
                    "evidence": mean_error(sure),
                    "right sign": None if rate == best else mean_error(right),
                    "sign as with most replicas": mean_error(same),
                }
            )
    return rows


def over(results: Results, cell: tuple, other: tuple, seeds: Sequence[int]) -> list[float]:
    """Return the held-out losses of a cell's runs over another's of the same seeds, less 1."""
    return [results[*cell, k]["held_out"] / results[*other, k]["held_out"] - 1 for k in seeds]


def regret_rows(results: Results, cells: dict[tuple, list[int]], best: float) -> list[dict]:
    """Return where Explorer ended, over the sweep's best and over its other runs."""
    rows = []
    for cell, seeds in cells.items():
        kind, n, spread, rate = cell
        if kind not in {"explorer", "unprobed"}:
            continue
        runs = [results[*cell, k] for k in seeds]
        regrets = over(results, cell, ("plain", 2, DEFAULT_SPREAD, best), seeds)
        usual, few = (kind, n, DEFAULT_SPREAD, rate), (kind, FEW, spread, rate)
        row = {
            "kind": kind,
            "replicas": n,
            "spread": spread,
            "start": rate / best,
            "regrets": regrets,
            "regret": mean_error(regrets),
            "over few": None,
            "over the default spread": None,
            "log of rate over best": mean_error([math.log(r["rate"] / best) for r in runs]),
        }
        if spread != DEFAULT_SPREAD:
            row["over the default spread"] = mean_error(over(results, cell, usual, seeds))
        elif n != FEW:
            row["over few"] = mean_error(over(results, cell, few, seeds))
        for name in ("climbing", "cliffs", "explosions"):
            row[name] = statistics.fmean(r[name] for r in runs)
        rows.append(row)
    return rows


def average_rows(results: Results, cells: dict[tuple, list[int]], best: float) -> list[dict]:
    """Return what replicas at held rates end at, over plain runs of the same rates."""
    rows = []
    for cell, seeds in cells.items():
        kind, n, spread, rate = cell
        if kind != "held":
            continue
        factor = mean_factor(n, spread)
        base, mean = (("plain", 2, DEFAULT_SPREAD, r) for r in (rate, rate * factor))
        row = {
            "replicas": n,
            "spread": spread,
            "rate": rate / best,
            "mean factor": factor,
            "distance": mean_error([results[*cell, k]["distance"] for k in seeds]),
            "over plain": mean_error(over(results, cell, base, seeds)),
            "over plain at the mean rate": mean_error(over(results, cell, mean, seeds)),
        }
        rows.append(row)
    return rows


def command(
    progress: Annotated[
        Path, typer.Option(help="Where finished runs are kept, to go on from.")
    ] = _PROGRESS,
) -> None:
    """Ask what more replicas buy: the signal and the regret with 4 to 512 of them."""
    torch.set_num_threads(1)
    results = Results(progress)
    seeds = range(max(SEEDS["held"].values()))

    def ends(rate: float) -> list[float]:
        return [results["plain", 2, DEFAULT_SPREAD, rate, k]["held_out"] for k in seeds]

    sweep = {rate: mean_error(ends(rate)) for rate in SWEEP}
    best = min(SWEEP, key=lambda rate: (sweep[rate] or {"mean": math.inf})["mean"])
    cells: dict[tuple, list[int]] = {}
    for work in plan(best):
        cells.setdefault(work[:4], []).append(work[4])
        print(work, {k: v for k, v in results[work].items() if k != "t"}, flush=True)
    write_record(
        "scale",
        "python -m benchmarks scale",
        {
            "task": TASK,
            "batch": BATCH,
            "steps": STEPS,
            "sync_every": SYNC_EVERY,
            "phase": PHASE,
            "seeds": SEEDS,
            "few": FEW,
            "default spread": DEFAULT_SPREAD,
            "sweep": {str(rate): row for rate, row in sweep.items()},
            "best": best,
            "at the starts": {str(m): mean_error(ends(best * m)) for m in STARTS},
            "signal": signal_rows(results, cells, best),
            "regret": regret_rows(results, cells, best),
            "average": average_rows(results, cells, best),
        },
    )
