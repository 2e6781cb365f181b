"""The metrics that a client sends: which values are accepted, and under which names.

Metrics are averaged, weighted by one of them, and some are passed to a selector. So each must
be a finite number, or a list of such, and those that the library reads have a range. One that
is not makes the whole reply unusable: a client whose loss is NaN has diverged, and one that
claims 1e308 examples cannot be trusted in the rest.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

from flwr.app import MetricRecord

from ...errors import short
from .model import Unfit
from .records import EXAMPLES, LABELS, LOSSES, PARTITION, first_of, is_metric, listed

# The largest loss in single precision; sums of many such numbers are finite.
_LARGEST = 3.4e38
# The largest whole number up to which a float64 skips none.
_MAX_EXAMPLES = 2**53
_NOT_NEGATIVE = ("squared-loss", "duration", "update-norm")
_ONE_NUMBER = ("train-loss", PARTITION, *_NOT_NEGATIVE)


def check_metrics(metrics: Mapping[str, Any], weight: str) -> None:
    """Check the metrics of one reply, whatever they are; `weight` names its weight."""
    examples = metrics.get(weight)
    if not is_metric(examples) or not 0 < examples < math.inf:
        _refuse(weight, examples, "must be a number above 0")
    if examples > _MAX_EXAMPLES:
        _refuse(weight, examples, "must be a number of at most 2**53")
    for name, value in metrics.items():
        if isinstance(value, list) and name not in _ONE_NUMBER:
            fits, rule = all(map(_is_usable, value)), "must be finite numbers"
        else:
            fits, rule = _is_usable(value), "must be one finite number"
        if not fits:
            _refuse(name, value, f"{rule}, at most {_LARGEST:g} in size")
        if name in _NOT_NEGATIVE and not cast(float, value) >= 0:
            _refuse(name, value, "must be at least 0")
    counts = metrics.get(LABELS, [1])
    if not isinstance(counts, list) or min(counts, default=-1) < 0 or sum(counts) == 0:
        _refuse(LABELS, counts, "must be a list of counts, at least 0 and not all 0")
    if not isinstance(metrics.get(PARTITION, -1), int):
        _refuse(PARTITION, metrics[PARTITION], "must be a whole number")


def _is_usable(value: object) -> bool:
    return is_metric(value) and -_LARGEST <= value <= _LARGEST


def _refuse(name: str, value: object, rule: str) -> NoReturn:
    raise Unfit(f"sent {name!r} = {short(value, 60)}, which {rule}", True)


def with_names(
    metrics: MetricRecord, wanted: Sequence[str]
) -> tuple[MetricRecord, dict[str, str]]:
    """Return metrics under the names that are wanted, and the names that they came under."""
    aliases = {}
    for name in wanted:
        group = next((names for names in (EXAMPLES, LOSSES) if name in names), ())
        other = None if name in metrics else first_of(metrics, group)
        if other is not None:
            aliases[name] = other
    if aliases:
        metrics = metrics.copy()
        metrics.update({name: metrics[other] for name, other in aliases.items()})
    return metrics, aliases


def form_of(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of metrics, sorted; those of lists with their length."""
    return tuple(
        sorted(f"{n}[{len(v)}]" if isinstance(v, list) else n for n, v in metrics.items())
    )


def number_of(metrics: Mapping[str, Any], names: Sequence[str]) -> float:
    """Return a client's loss or number of examples by any of its names, or a `ValueError`."""
    name = first_of(metrics, names)
    if name is None:
        others = " or ".join(map(repr, names[1:]))
        found = listed(sorted(metrics))
        raise ValueError(f"its metrics hold no number {names[0]!r} ({others}), but {found}")
    return metrics[name]
