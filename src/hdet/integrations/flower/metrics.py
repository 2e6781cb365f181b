"""The metrics that a client sends: what they must be, and by which names they are understood.

Metrics are averaged, weighed by one of them, and some are told to a selector. So each must be
a finite number, or a list of such, and those that the library reads have a range. Whatever is
not is a fault of the whole reply: a client whose loss is no number has diverged, and of one
that says that it holds 1e308 examples the rest is not to be believed either.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

from flwr.app import MetricRecord

from .model import Unfit
from .records import EXAMPLES, LABELS, LOSSES, PARTITION, first_of, is_number, listed, short

# What a loss in single precision can be; sums of many such numbers are finite.
_LARGEST = 3.4e38
# What a float64 counts exactly.
_MOST_EXAMPLES = 2**53
_NOT_NEGATIVE = ("squared-loss", "duration", "update-norm")
_ONE_NUMBER = ("train-loss", PARTITION, *_NOT_NEGATIVE)


def check_metrics(metrics: Mapping[str, Any], weight: str) -> None:
    """Check the metrics of one reply, whatever they are.

    Args:
        metrics: by name.
        weight: the name of what weighs the reply.

    Raises:
        Unfit: naming the metric and the rule.
    """
    examples = metrics.get(weight)
    if not is_number(examples) or not 0 < examples < math.inf:
        _refuse(weight, examples, "must be a number above 0")
    if examples > _MOST_EXAMPLES:
        _refuse(weight, examples, "must be a number of at most 2**53")
    for name, value in metrics.items():
        if isinstance(value, list) and name not in _ONE_NUMBER:
            fine, rule = all(map(_fine, value)), "must be finite numbers"
        else:
            fine, rule = _fine(value), "must be one finite number"
        if not fine:
            _refuse(name, value, f"{rule}, at most {_LARGEST:g} in size")
        if name in _NOT_NEGATIVE and not cast(float, value) >= 0:
            _refuse(name, value, "must be at least 0")
    counts = metrics.get(LABELS, [1])
    if not isinstance(counts, list) or min(counts, default=-1) < 0 or sum(counts) == 0:
        _refuse(LABELS, counts, "must be a list of counts, at least 0 and not all 0")
    if not isinstance(metrics.get(PARTITION, -1), int):
        _refuse(PARTITION, metrics[PARTITION], "must be a whole number")


def _fine(value: object) -> bool:
    return is_number(value) and -_LARGEST <= value <= _LARGEST


def _refuse(name: str, value: object, rule: str) -> NoReturn:
    raise Unfit(f"sent {name!r} = {short(value)}, which {rule}", True)


def translated(
    metrics: MetricRecord, wanted: Sequence[str]
) -> tuple[MetricRecord, dict[str, str]]:
    """Return metrics with those that are wanted, where they came under another name.

    Args:
        metrics: as they came.
        wanted: names that the strategy within must find, such as q-FedAvg's "train_loss".

    Returns:
        (metrics, understood): the name that each came under, of those that are new.
    """
    understood = {}
    for name in wanted:
        group = next((names for names in (EXAMPLES, LOSSES) if name in names), ())
        other = None if name in metrics else first_of(metrics, group)
        if other is not None:
            understood[name] = other
    if understood:
        metrics = metrics.copy()
        metrics.update({name: metrics[other] for name, other in understood.items()})
    return metrics, understood


def form_of(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of metrics, sorted; of lists, with their length."""
    return tuple(
        sorted(f"{n}[{len(v)}]" if isinstance(v, list) else n for n, v in metrics.items())
    )


def loss_of(metrics: Mapping[str, Any]) -> float:
    """Return the loss that a client reports.

    Raises:
        ValueError: if it reports none.
    """
    name = first_of(metrics, LOSSES)
    if name is None:
        others = " or ".join(map(repr, LOSSES[1:]))
        raise ValueError(
            f"its metrics hold no number {LOSSES[0]!r}, nor {others}, but "
            f"{listed(sorted(metrics))}"
        )
    return metrics[name]


def examples_of(metrics: Mapping[str, Any]) -> float:
    """Return how many examples a client holds.

    Raises:
        ValueError: if it does not say.
    """
    name = first_of(metrics, EXAMPLES)
    if name is None:
        raise ValueError(
            f"its metrics hold no number {EXAMPLES[0]!r}, but {listed(sorted(metrics))}"
        )
    return metrics[name]
