"""The rows of a comparison's table: configurations over their seeds, and compared.

The paper (HDET, arXiv 2604.24708) reports one run a configuration; here a row has the
mean over seeds and its standard error.

Two rows are compared seed by seed: all configurations of a seed begin at the same
weights (warm ones at the same checkpoint) and read the same batches, so most of what
differs between seeds is common to both rows and drops out of the difference.
"""

import math
from dataclasses import dataclass

from .records import Configuration, Result, RunFolder, mean_and_error


@dataclass(frozen=True)
class Row:
    """One configuration over its finished seeds; NaN for what is not finite.

    Attributes:
        name: of the configuration.
        configuration: its label.
        seeds: how many have finished.
        mean_lr: mean over seeds of the mean base learning rate.
        final_lr: mean over seeds of the last base learning rate.
        train_loss: mean over seeds.
        train_error: its standard error; NaN with one seed.
        held_out_loss: mean over seeds.
        held_out_error: its standard error; NaN with one seed.
        diverged: how many seeds did.
        seconds: mean wall time of one run.
        sync_share: mean share of it spent in syncs.
        warm_start: whether it had the checkpoint's steps on top of its own.
        losses: the training loss by seed.
    """

    name: str
    configuration: str
    seeds: int
    mean_lr: float
    final_lr: float
    train_loss: float
    train_error: float
    held_out_loss: float
    held_out_error: float
    diverged: int
    seconds: float
    sync_share: float
    warm_start: bool
    losses: dict[int, float]


@dataclass(frozen=True)
class Difference:
    """The training losses of two rows over the seeds that both have.

    Attributes:
        first: mean of the one; NaN if a seed is not finite.
        second: mean of the other.
        mean: of the differences by seed, first minus second.
        error: its standard error; NaN with one seed.
        seeds: how many both have, at least one.
    """

    first: float
    second: float
    mean: float
    error: float
    seeds: int


def summarise(folder: RunFolder) -> list[Row]:
    """Return a row for each configuration with a finished run, in the table's order.

    Raises:
        ValueError: if this is not a run folder.
    """
    rows = [
        (configuration, folder.results(configuration.name))
        for configuration in folder.settings().configurations
    ]
    return [_row(configuration, found) for configuration, found in rows if found]


def _row(configuration: Configuration, found: dict[int, Result]) -> Row:
    def over_seeds(field: str) -> tuple[float, float]:
        return mean_and_error([getattr(result, field) for result in found.values()])

    train_loss, train_error = over_seeds("train_loss")
    held_out_loss, held_out_error = over_seeds("held_out_loss")
    return Row(
        name=configuration.name,
        configuration=configuration.label,
        seeds=len(found),
        mean_lr=over_seeds("mean_lr")[0],
        final_lr=over_seeds("final_lr")[0],
        train_loss=train_loss,
        train_error=train_error,
        held_out_loss=held_out_loss,
        held_out_error=held_out_error,
        diverged=sum(result.diverged for result in found.values()),
        seconds=over_seeds("seconds")[0],
        sync_share=over_seeds("sync_share")[0],
        warm_start=configuration.warm_start,
        losses={seed: result.train_loss for seed, result in found.items()},
    )


def difference(a: Row, b: Row) -> Difference | None:
    """Return the losses of `a` against those of `b`; None without a common seed."""
    pairs = [(a.losses[seed], b.losses[seed]) for seed in a.losses if seed in b.losses]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    mean, error = mean_and_error([x - y for x, y in pairs])
    return Difference(
        mean_and_error(first)[0], mean_and_error(second)[0], mean, error, len(pairs)
    )


def number(value: float, sign: str = "", beside: float = 0.0) -> str:
    """Return a loss with five digits.

    Args:
        value: what to write; 1e4 and more as `power` does.
        sign: `+` to write that of a positive value, too.
        beside: a number that it stands beside, and is to look alike.
    """
    size = max(abs(value), abs(beside))
    if not math.isfinite(size) or size >= 1e4:
        return power(value, sign)
    return f"{value:{sign}.{5 - len(str(int(size)))}f}"


def power(value: float, sign: str = "") -> str:
    """Return a number with two digits and a short exponent, as in `9.0e-2`."""
    if not math.isfinite(value):
        return "not finite"
    mantissa, _, exponent = f"{value:{sign}.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def with_error(value: float, error: float, sign: str = "") -> str:
    """Return a number and, where there is one, its standard error."""
    behind = f" ± {number(error, beside=value)}" if math.isfinite(error) else ""
    return number(value, sign, error if behind else 0.0) + behind
