"""What the pictures show, read from a run folder into arrays.

Training may have ended anywhere, and may have produced any number: what a run has
written so far is read, and all that is missing or not finite becomes NaN, so that
drawing has one case to think of. NumPy's warnings about that are off.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .records import Configuration, RunFolder, Settings

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One configuration, with value k - 1 of each array that of step k.

    Attributes:
        row: the configuration.
        seeds: how many have begun.
        loss: mean over seeds, replicas and the last `smoothing` steps.
        error: its standard error over seeds.
        base: mean over seeds and groups of the base learning rate.
    """

    row: Configuration
    seeds: int
    loss: Array
    error: Array
    base: Array


@dataclass(frozen=True)
class Exploration:
    """Seed 0 of a row with a spread: the rates by step, the controller by sync.

    Attributes:
        row: the configuration.
        steps: numbers of the steps.
        base: base rates, by step and group.
        rates: learning rates, by step, group and replica.
        syncs: steps of the syncs after which a loss was known; the rest is by sync.
        gaps: loss minus mean loss, by replica.
        weights: softmax weights, by replica; NaN until the controller has acted.
        pulls: delta in percent of the base rate it was built from, by group.
        divergence: distance from the average in percent, by replica.
    """

    row: Configuration
    steps: Array
    base: Array
    rates: Array
    syncs: Array
    gaps: Array
    weights: Array
    pulls: Array
    divergence: Array


def smoothing(settings: Settings) -> int:
    """Return the number of steps that a point of a loss curve is the mean of."""
    return max(1, settings.steps // 50)


def read_curves(folder: RunFolder, settings: Settings) -> Iterator[Curve]:
    """Yield a curve for each configuration of which a run has begun."""
    for row in settings.configurations:
        # Each file is read once, and of a step only what is drawn is kept.
        runs = [
            [
                (line["step"], mean(line["losses"]), mean(line["base_lr"]))
                for line in folder.lines(row.name, seed, "step")
            ]
            for seed in range(settings.seeds)
        ]
        tables = [np.array(run, dtype=float).T for run in runs if run]
        if tables:
            losses = [by_step(steps, loss) for steps, loss, _ in tables]
            smooth = [trailing_mean(line, smoothing(settings)) for line in losses]
            base = [by_step(steps, rate) for steps, _, rate in tables]
            yield Curve(row, len(tables), *over_seeds(smooth), over_seeds(base)[0])


def read_exploration(folder: RunFolder, settings: Settings) -> Exploration | None:
    """Return the exploration of `hdet-full`, else of the first row that has one."""
    rows = [row for row in settings.configurations if row.spread > 0]
    for row in sorted(rows, key=lambda row: row.name != "hdet-full"):
        lines = list(folder.lines(row.name, 0, "step"))
        if lines:
            syncs = [x for x in folder.lines(row.name, 0, "sync") if x.get("losses")]
            return _exploration(row, lines, syncs)
    return None


@np.errstate(all="ignore")
def _exploration(
    row: Configuration, lines: list[dict[str, Any]], syncs: list[dict[str, Any]]
) -> Exploration:
    base = {line["step"]: positive(line["base_lr"]) for line in lines}
    groups, replicas = np.shape(lines[0]["replica_lr"])
    shape = (len(syncs), replicas)
    losses = floats([line["losses"] for line in syncs]).reshape(shape)
    known = np.isfinite(losses).sum(axis=1, keepdims=True)
    unknown = [np.nan] * replicas
    pulls = [
        # A sync's own line has the base rate as it moved, its step's as it was before.
        floats(line.get("delta") or [np.nan] * groups) / base[line["step"]]
        for line in syncs
    ]
    return Exploration(
        row=row,
        steps=floats(list(base)),
        base=np.array(list(base.values())),
        rates=positive([line["replica_lr"] for line in lines]),
        syncs=floats([line["step"] for line in syncs]),
        gaps=losses - np.nansum(losses, axis=1, keepdims=True) / known,
        weights=floats([x.get("weights") or unknown for x in syncs]).reshape(shape),
        pulls=100 * floats(pulls).reshape(len(syncs), groups),
        divergence=100 * floats([x["divergence"] for x in syncs]).reshape(shape),
    )


def floats(values: Any) -> Array:
    """Return an array with NaN for everything that is not finite, null included."""
    array = np.array(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def positive(values: Any) -> Array:
    """Return an array with NaN for what a logarithmic axis cannot show."""
    array = floats(values)
    return np.where(array > 0, array, np.nan)


@np.errstate(all="ignore")
def mean(values: list[float | None]) -> float:
    """Return the mean; NaN if one of the values is not finite."""
    return float(floats(values).mean())


def by_step(steps: Array, values: Array) -> Array:
    """Return the values with that of step k at place k - 1."""
    line = np.full(int(steps.max()), np.nan)
    line[steps.astype(int) - 1] = values
    return line


@np.errstate(all="ignore")
def trailing_mean(line: Array, window: int) -> Array:
    """Return the mean over the last `window` values; NaN stays, and counts for none."""
    # Summed per window: a running sum would never get rid of one huge loss.
    finite, ones = np.isfinite(line), np.ones(window)
    total = np.convolve(np.where(finite, line, 0), ones)[: len(line)]
    count = np.convolve(finite, ones)[: len(line)]
    return np.where(finite, total / count, np.nan)


@np.errstate(all="ignore")
def over_seeds(lines: list[Array]) -> tuple[Array, Array]:
    """Return mean and standard error over the seeds that have got as far as each step.

    A seed that is not finite makes both NaN: a mean of the survivors would look better
    than the configuration is.
    """
    table = np.zeros((len(lines), max(map(len, lines))))
    reached = np.zeros(table.shape, dtype=bool)
    for row, line in enumerate(lines):
        table[row, : len(line)], reached[row, : len(line)] = line, True
    count = reached.sum(axis=0)
    mean = table.sum(axis=0) / count
    squares = np.where(reached, (table - mean) ** 2, 0).sum(axis=0)
    return mean, np.sqrt(squares / (count - 1) / count)
