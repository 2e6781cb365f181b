"""Which hyperparameter made the losses differ: a ridge regression over the replicas.

N replicas tried N settings of J hyperparameters at once, each spread by a permutation of
its own. Their losses are regressed on the J offsets together, so that one hyperparameter
is not blamed for what another did. With one hyperparameter the slope is the paper's signal
up to its scale: a weighted mean of the values minus their plain mean. A slope is judged by its
t-statistic, which `confidence` turns into a number from -1 to 1: no absolute scale of losses
enters.

Plain float arithmetic in a fixed order: every rank computes the same from the same numbers,
to the last bit, whatever its processor's libraries.

Source: HDET (arXiv 2604.24708), equation (7), which scores one hyperparameter at a time; the
regression over all of them is ours. Ridge: Hoerl and Kennard, Technometrics 12 (1970).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .config import DEFAULT, SearchConfig


@dataclass(frozen=True)
class Slopes:
    """What the losses say of each hyperparameter.

    Attributes:
        slope: change of the loss per unit of offset, one for each hyperparameter; shrunk
            by the ridge where there are several.
        t: the slopes over their standard errors. 0 where nothing can be said.
        confounded: whether there were too few replicas to tell the hyperparameters apart;
            the slopes are then shared out among them.
    """

    slope: list[float]
    t: list[float]
    confounded: bool


def slopes(
    losses: Sequence[float],
    offsets: Sequence[Sequence[float]],
    config: SearchConfig = DEFAULT,
) -> Slopes:
    """Regress the losses of the replicas on the offsets of the hyperparameters.

    Args:
        losses: one per replica; a replica whose loss is not finite is left out.
        offsets: for each hyperparameter, the offset of each replica from the base value, in
            units of its spread: -1 to 1.
        config: has the ridges.

    Returns:
        Slopes and t-statistics. With one hyperparameter and two losses the slope fits them
        exactly, and only its sign is to be relied on; with fewer losses all are 0.
    """
    live = [r for r, loss in enumerate(losses) if math.isfinite(loss)]
    count, n = len(offsets), len(live)
    confounded = count > 1 and n < count + 2
    if n < 2 or not count:
        return Slopes([0.0] * count, [0.0] * count, confounded)
    y = _centred([losses[r] for r in live])
    columns = [_centred([row[r] for r in live]) for row in offsets]
    share = 0.0 if count == 1 else config.confounded_ridge if confounded else config.ridge
    gram = [[_dot(a, b) for b in columns] for a in columns]
    for j in range(count):
        gram[j][j] += share * gram[j][j] + 1e-12
    inverse = _inverse(gram)
    moments = [_dot(column, y) for column in columns]
    slope = [_dot(row, moments) for row in inverse]
    residuals = [
        y[k] - math.fsum(b * column[k] for b, column in zip(slope, columns, strict=True))
        for k in range(n)
    ]
    variance = _dot(residuals, residuals) / max(n - 1 - count, 1)
    # Losses have float32's accuracy: below that a perfect fit is no certainty.
    largest = max(abs(losses[r]) for r in live)
    t = []
    for j, b in enumerate(slope):
        own = inverse[j][j]
        error = math.sqrt(variance * own) + 1e-7 * largest * math.sqrt(own)
        t.append(b / error if error > 0 else 0.0)
    return Slopes(slope, t, confounded)


def confidence(t: float, config: SearchConfig = DEFAULT) -> float:
    """Return how sure it is that a larger value is better: 1 surely, -1 surely worse.

    -tanh(t / 3): a slope of three standard errors counts three quarters.

    Args:
        t: the slope's t-statistic.
        config: has the scale, 3 by default.
    """
    return -math.tanh(t / config.confidence_scale)


def without_outliers(losses: Sequence[float], config: SearchConfig = DEFAULT) -> list[float]:
    """Return the losses with what is far above the others cut at a ceiling.

    The ceiling is as far above the median as twice the way down to the lowest. One diverging
    replica would bend a straight line; cut, it still says "worse", and no more.

    Args:
        losses: one per replica; what is not finite stays so.
        config: has the ceiling, 2 by default.
    """
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if not finite:
        return list(losses)
    median = finite[(len(finite) - 1) // 2]
    ceiling = median + config.outlier_ceiling * (median - finite[0])
    if ceiling <= median:
        return list(losses)
    return [min(loss, ceiling) if math.isfinite(loss) else loss for loss in losses]


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _inverse(matrix: list[list[float]]) -> list[list[float]]:
    """Return the inverse of a small symmetric positive definite matrix (Gauss-Jordan)."""
    size = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = rows[i][i]
        rows[i] = [x / pivot for x in rows[i]]
        for k in range(size):
            if k != i:
                factor = rows[k][i]
                rows[k] = [x - factor * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[size:] for row in rows]
