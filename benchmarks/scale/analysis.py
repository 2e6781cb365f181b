"""What docs/results/scale.md says, from its record."""

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from ..core.records import record

CLEAR = 3.0  # in units of the best rate: where training losses show something at all
HELD_BY, OWN, ONE = "probe at averaged weights", "own batches", "one example each"
SAME, RIGHT = "sign as with most replicas", "right sign"


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    run = record("scale")
    signals = Signals(run, run["default spread"])
    over_few = {
        (row["replicas"], round(row["start"], 1)): row["over few"]
        for row in run["regret"]
        if row["kind"] == "explorer" and row["over few"]
    }
    right = {n: signals.mean(RIGHT, HELD_BY, n)["mean"] for n in signals.replicas}
    return {
        "run": run,
        "few": run["few"],
        "over_few": over_few,
        "right": right,
        "same": {
            n: signals.mean(SAME, HELD_BY, n, lambda rate: rate < 0.9)["mean"]
            for n in signals.replicas
            if n < max(signals.replicas)
        },
        "summary": _summary(run, over_few, right),
        "at_clear": {
            name: [cell(signals.row(name, n, CLEAR)["t"]) for n in signals.replicas if n > 4]
            for name in (OWN, ONE)
        },
        "regret": _regret(run),
        "percent": percent,
        "largest_over_spread": _largest(r["over the default spread"] for r in run["regret"]),
        "largest_calm": _largest(
            row["over plain"] for row in run["average"] if row["rate"] < 1.5
        ),
        "by_spread": _by_spread(run),
    }


class Signals:
    """The rows of held runs at one spread, by signal and N.

    Args:
        run: the record.
        spread: of the learning rates.
    """

    def __init__(self, run: dict[str, Any], spread: float) -> None:
        self.all = [row for row in run["signal"] if math.isclose(row["spread"], spread)]
        self.replicas = sorted({row["replicas"] for row in self.all})
        self.rates = sorted({row["rate"] for row in self.all})

    def row(self, signal: str, n: int, rate: float) -> dict[str, Any]:
        """Return one row."""
        found = (r for r in self.all if (r["signal"], r["replicas"]) == (signal, n))
        return next(r for r in found if math.isclose(r["rate"], rate))

    def mean(
        self, key: str, signal: str, n: int, rates: Callable[[float], bool] | None = None
    ) -> dict[str, float]:
        """Return the mean over rates; their runs share seeds, so errors are averaged."""
        rows = [self.row(signal, n, r) for r in self.rates if rates is None or rates(r)]
        known = [row[key] for row in rows if row[key] is not None]
        return {name: statistics.fmean(e[name] for e in known) for name in ("mean", "error")}


def times(value: float) -> str:
    """Return a multiple of the best rate, as in `1/10`."""
    return f"{value:.3g}" if value >= 1 else f"1/{1 / value:.0f}"


def cell(entry: dict[str, float] | None, digits: int = 2) -> str:
    """Return a mean and its standard error."""
    if entry is None:
        return "-"
    return f"{entry['mean']:.{digits}f} ± {entry['error']:.{digits}f}"


def percent(entry: dict[str, float] | None, digits: int = 0, sign: str = "") -> str:
    """Return a share and its standard error in percent."""
    if entry is None:
        return "-"
    return f"{100 * entry['mean']:{sign}.{digits}f} ± {100 * entry['error']:.{digits}f} %"


def _largest(entries: Iterable[dict[str, float] | None]) -> dict[str, float]:
    return max((e for e in entries if e is not None), key=lambda e: abs(e["mean"]))


def _summary(
    run: dict[str, Any],
    over_few: dict[tuple[int, float], dict[str, float]],
    right: dict[int, float],
) -> pd.DataFrame:
    low, high = sorted({start for _, start in over_few})
    unprobed = {
        row["replicas"]: 100 * statistics.median(row["regrets"])
        for row in run["regret"]
        if row["kind"] == "unprobed" and row["start"] < 1
    }
    return pd.DataFrame(
        {
            "N": n,
            f"from {times(low)}": percent(over_few.get((n, low)), 1, "+"),
            f"from {times(high)}": percent(over_few.get((n, high)), 1, "+"),
            "right sign": f"{right[n]:.0%}",
            "no probe": f"{unprobed[n]:+.1f} %",
        }
        for n in right
    )


def _regret(run: dict[str, Any]) -> pd.DataFrame:
    found = [r for r in run["regret"] if math.isclose(r["spread"], run["default spread"])]
    return pd.DataFrame(
        {
            "": "with probe" if row["kind"] == "explorer" else "no probe",
            "start": times(row["start"]),
            "N": row["replicas"],
            "seeds": len(row["regrets"]),
            "regret": percent(row["regret"], 1, "+"),
            "median": f"{100 * statistics.median(row['regrets']):+.1f} %",
            f"over N = {run['few']}": percent(row["over few"], 1, "+"),
            "final rate / best": f"{math.exp(row['log of rate over best']['mean']):.2f}",
        }
        for row in sorted(found, key=lambda r: (r["kind"], r["start"], r["replicas"]))
    )


def _by_spread(run: dict[str, Any]) -> pd.DataFrame:
    some = {s: Signals(run, s) for s in sorted({row["spread"] for row in run["signal"]})}
    return pd.DataFrame(
        {
            "N": n,
            **{
                f"spread {spread:g}": cell(signals.row(OWN, n, CLEAR)["t"])
                for spread, signals in some.items()
            },
        }
        for n in some[min(some)].replicas
    )
