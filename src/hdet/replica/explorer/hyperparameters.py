"""What can be explored: any scalar that leaves the architecture alone.

A learning rate belongs to a schedule: what is explored there is a factor on it, one for each
parameter group. Everything else is explored as it is: entries of the optimizer's parameter
groups, and plain attributes of any object.

Source: HDET (arXiv 2604.24708), equation (7).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ...errors import require, where
from .dimensions import Bounds, Dimension, Request, Scale

Access = tuple[Callable[[], float], Callable[[float], None]]


def lr(
    spread: float = 0.3,
    groups: Sequence[int | str] | None = None,
    bounds: Bounds | None = None,
) -> Request:
    """Explore the learning rate of parameter groups, each a dimension of its own.

    Args:
        spread: the highest replica's rate is (1 + spread) times the base rate, the lowest
            the base rate divided by it; > 0. It acts without a search, and after one on the
            ratios of several groups' rates: a single rate that was found is the same on all.
        groups: indices or `name`s of the groups; None for all that have parameters.
        bounds: lowest and highest factor on the user's own schedule, both > 0, as in
            (0.1, 3.0). No replica leaves them, whether rates are searched, held, tracked or
            rolled back; a search begins at the lower one if that is above its usual start.
            Default 1e-6 to 1e6: as good as none.

    Returns:
        A request for `Explorer(explore=[...])`.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check_spread("lr", spread)
    limits = _check_bounds("lr", bounds or (1e-6, 1e6), positive=True)

    def dimensions(optimizer: Optimizer) -> list[Dimension]:
        return [
            Dimension(
                f"lr/{name}", "log", math.log1p(spread), limits, 1.0, index, _unread, _unwritten
            )
            for index, name in _groups(optimizer, groups, "lr")
        ]

    return Request(dimensions)


def weight_decay(
    spread: float = 1.0,
    groups: Sequence[int | str] | None = None,
    bounds: Bounds | None = None,
) -> Request:
    """Explore the weight decay of parameter groups that have one, each its own dimension.

    Args:
        spread: as for `lr`; the effect of a decay is small within an interval, so replicas
            differ by a factor of 2 either way by default.
        groups: indices or `name`s of the groups; None for all whose decay is not 0.
        bounds: lowest and highest decay, positive; default a ten-thousandth to a thousand
            times the value that it starts from.

    Returns:
        A request for `Explorer(explore=[...])`.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check_spread("weight_decay", spread)
    if bounds is not None:
        _check_bounds("weight_decay", bounds, positive=True)

    def dimensions(optimizer: Optimizer) -> list[Dimension]:
        found = []
        for index, name in _groups(optimizer, groups, "weight_decay"):
            group = optimizer.param_groups[index]
            value = float(group.get("weight_decay", 0.0))
            if value == 0 and groups is None:
                continue
            require(
                value > 0,
                "weight_decay",
                "groups",
                name,
                "must name groups with a positive weight decay, and this one has 0",
                "give the group a decay to start from",
            )
            limits = bounds or (value * 1e-4, value * 1e3)
            _check_value("weight_decay", value, limits)
            found.append(
                Dimension(
                    f"weight_decay/{name}",
                    "log",
                    math.log1p(spread),
                    limits,
                    value,
                    None,
                    *_entry(optimizer, index, "weight_decay"),
                )
            )
        if not found:
            raise ValueError(
                f"{where()}`weight_decay()` needs a parameter group with weight decay, and "
                f"all are 0: give the optimizer a positive `weight_decay` to start from."
            )
        return found

    return Request(dimensions)


def betas(
    index: int = 0,
    spread: float = 0.3,
    groups: Sequence[int | str] | None = None,
    bounds: Bounds = (0.0, 1.0),
) -> Request:
    """Explore a beta of Adam and its kin, or the momentum of SGD, per parameter group.

    The optimizer state then differs between replicas and is averaged too.

    Args:
        index: which beta; 0 is also SGD's `momentum`.
        spread: as for `lr`, of the odds between the bounds.
        groups: indices or `name`s of the groups; None for all that have parameters.
        bounds: lowest and highest value, within [0, 1].

    Returns:
        A request for `Explorer(explore=[...])`.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check_spread("betas", spread)
    _check_bounds("betas", bounds, positive=False)
    require(
        bounds[0] >= 0 and bounds[1] <= 1,
        "betas",
        "bounds",
        bounds,
        "must lie within [0, 1]",
        "leave it out for (0, 1)",
    )

    def dimensions(optimizer: Optimizer) -> list[Dimension]:
        found = []
        for group_index, name in _groups(optimizer, groups, "betas"):
            group = optimizer.param_groups[group_index]
            if "betas" in group and 0 <= index < len(group["betas"]):
                value, access = group["betas"][index], _beta(optimizer, group_index, index)
            elif "momentum" in group and index == 0:
                value, access = group["momentum"], _entry(optimizer, group_index, "momentum")
            else:
                raise ValueError(
                    f"{where()}`betas(index={index})`: parameter group {name!r} of "
                    f"{type(optimizer).__name__} has no such entry. Explore what it has: "
                    f"{', '.join(sorted(k for k in group if k != 'params'))}."
                )
            _check_value("betas", float(value), bounds, inside=True)
            width = math.log1p(spread)
            found.append(
                Dimension(
                    f"beta{index}/{name}",
                    "logit",
                    width,
                    bounds,
                    float(value),
                    None,
                    *access,
                    shares_state=False,
                )
            )
        return found

    return Request(dimensions)


def attribute(
    module: Any,
    name: str,
    spread: float = 0.5,
    bounds: Bounds | None = None,
    scale: Scale | None = None,
) -> Request:
    """Explore a scalar attribute: dropout, label smoothing, a temperature, a loss weight.

    Replicas share their gradient, so an attribute that acts through the gradient alone has
    the same effect on all of them: what can be seen is its direct effect on the loss that
    the replica reports, and on a probe that sees it. See the documentation, "What can be
    explored".

    Args:
        module: the object that has it, or several which share one value, such as all
            dropout layers.
        name: of the attribute: a plain number, read again at every forward pass. In a
            compiled module arithmetic with it costs one more graph in all; `nn.Dropout.p` and
            `label_smoothing` cost one for each new value, up to torch's limit: leave such a
            module uncompiled.
        spread: on the scale: a factor of (1 + spread) either way, of the number (`log`) or
            its odds (`logit`); or a distance (`linear`).
        bounds: lowest and highest value. Default by scale: a thousandth to a thousand times
            the first value.
        scale: `log`, `logit` or `linear`. Default `logit` if bounds within [0, 1] are given,
            else `log` for a positive first value, else `linear`, which needs bounds.

    Returns:
        A request for `Explorer(explore=[...])`.

    Raises:
        ValueError: if there is no such number, or an argument is out of range.
    """
    owners = (
        list(module) if isinstance(module, Iterable) and not hasattr(module, name) else [module]
    )
    values = [getattr(owner, name, None) for owner in owners]
    plain = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in values]
    good = bool(values) and all(plain)
    require(
        good and len(set(values)) == 1,
        "attribute",
        "name",
        name,
        f"must be one number on all of {[type(owner).__name__ for owner in owners]}, and the "
        f"values are {values}",
        "name a plain float attribute, the same on every module",
    )
    value = float(values[0])  # pyright: ignore[reportArgumentType]
    _check_spread("attribute", spread)
    if scale is None:
        within = bounds is not None and 0 <= bounds[0] < bounds[1] <= 1
        scale = "logit" if within else "log" if value > 0 else "linear"
    if bounds is None:
        require(
            scale == "log" and value > 0,
            "attribute",
            "bounds",
            bounds,
            f"must be given for a {scale} scale and the value {value:g}",
            "write bounds=(lowest, highest)",
        )
        bounds = (value * 1e-3, value * 1e3)
    _check_bounds("attribute", bounds, positive=scale == "log")
    _check_value(f"attribute {name!r}", value, bounds, inside=scale == "logit")
    limits, kind = bounds, scale

    def read() -> float:
        return _number(getattr(owners[0], name, None), f"attribute {name!r}")

    def write(new: float) -> None:
        for owner in owners:
            setattr(owner, name, new)

    def dimensions(_: Optimizer) -> list[Dimension]:
        width = spread if kind == "linear" else math.log1p(spread)
        return [Dimension(name, kind, width, limits, value, None, read, write)]

    return Request(dimensions)


# Rates are read and written by `RateCell`, together with the schedule.
def _unread() -> float:
    raise AssertionError("a learning rate is no plain entry")


def _unwritten(_: float) -> None:
    raise AssertionError("a learning rate is no plain entry")


def _entry(optimizer: Optimizer, index: int, key: str) -> Access:
    def read() -> float:
        return _number(optimizer.param_groups[index].get(key), key)

    def write(value: float) -> None:
        group = optimizer.param_groups[index]
        if isinstance(group[key], Tensor):
            group[key].fill_(value)
        else:
            group[key] = value

    return read, write


def _beta(optimizer: Optimizer, index: int, which: int) -> Access:
    def read() -> float:
        return _number(optimizer.param_groups[index]["betas"][which], "betas")

    def write(value: float) -> None:
        group = optimizer.param_groups[index]
        new = list(group["betas"])
        new[which] = value
        group["betas"] = tuple(new)

    return read, write


def _number(value: Any, name: str) -> float:
    """Return a value that somebody else may have put into place."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise ValueError(
        f"{where()}`Explorer` explores {name}, which was a number and now is {value!r:.60}: "
        f"leave it a number, or take it out of `explore`."
    )


def _groups(
    optimizer: Optimizer, chosen: Sequence[int | str] | None, call: str
) -> list[tuple[int, str]]:
    """Return index and name of the chosen parameter groups."""
    groups = optimizer.param_groups
    names = [str(group.get("name", index)) for index, group in enumerate(groups)]
    if len(set(names)) < len(names):
        names = [str(index) for index in range(len(groups))]
    if chosen is None:
        # Without parameters, as some frameworks make them, there is nothing to compare.
        return [(i, name) for i, name in enumerate(names) if groups[i]["params"]]
    found = []
    for item in chosen:
        index = names.index(item) if isinstance(item, str) and item in names else item
        require(
            isinstance(index, int) and 0 <= index < len(groups),
            call,
            "groups",
            item,
            f"must be an index below {len(groups)} or one of the names {names}",
            "leave it out for all groups",
        )
        found.append((int(index), names[int(index)]))
    return found


def _check_spread(call: str, spread: float) -> None:
    require(
        spread > 0 and math.isfinite(spread),
        call,
        "spread",
        spread,
        "must be a positive number, or the replicas would not differ",
        "leave the hyperparameter out of `explore` to keep it as it is",
    )


def _check_bounds(call: str, bounds: Bounds, positive: bool) -> Bounds:
    low, high = bounds
    require(
        low < high and (low > 0 or not positive),
        call,
        "bounds",
        bounds,
        "must be (lowest, highest)" + (", both positive" if positive else ""),
        "write the lower one first, and leave room between them",
    )
    return bounds


def _check_value(call: str, value: float, bounds: Bounds, inside: bool = False) -> None:
    low, high = bounds
    require(
        low < value < high if inside else low <= value <= high,
        call,
        "bounds",
        bounds,
        f"must hold the value it starts from, {value:g}" + (", inside" if inside else ""),
        "start from a value between the bounds, or widen them",
    )
