"""What docs/results/scale.md says, from its record: tables and what statistics predicts."""

import math
import statistics
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pandas as pd

from ..core.records import record

CLEAR = 3.0  # in units of the best rate: where training losses show something at all
HELD_BY, CLIMBED_BY, OWN, ONE = (
    "probe at averaged weights",
    "probe at own weights",
    "own batches",
    "one example each",
)
SAME, RIGHT = "sign as with most replicas", "right sign"


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    run = record("scale")
    signals = Signals(run, run["default spread"])
    return {
        "run": run,
        "signals": signals,
        "mean": lambda key, signal, n: signals.mean(key, signal, n)["mean"],
        "below": lambda rate: rate < 0.9,
        "cell": cell,
        "percent": percent,
        "times": times,
        "seeds": _seeds(run["seeds"]),
        "sweep": _sweep(run["sweep"]),
        "t": _t(signals),
        "signs": _signs(signals),
        "growth": _growth(signals, run["few"]),
        "regret": _regret(run),
        "over_few": {
            (row["replicas"], round(row["start"], 1)): row["over few"]
            for row in run["regret"]
            if row["kind"] == "explorer" and row["over few"]
        },
        "median_regret": {
            row["replicas"]: 100 * statistics.median(row["regrets"])
            for row in run["regret"]
            if row["kind"] == "unprobed" and row["start"] < 1
        },
        "spread_signals": _spread_signals(run),
        "spread_regret": _spread_regret(run),
        "largest_over_spread": _largest(r["over the default spread"] for r in run["regret"]),
        "averages": _averages(run),
        "largest_calm": _largest(
            row["over plain"] for row in run["average"] if row["rate"] < 1.5
        ),
        "slowest": min(run["average"], key=lambda row: (row["rate"], row["replicas"])),
        "beyond": lambda key: sum(
            abs(row[key]["mean"]) > 2 * row[key]["error"] for row in run["average"]
        ),
        "by_spread": {
            n: {
                spread: Signals(run, spread).row(OWN, n, CLEAR)["t"]["mean"]
                for spread in sorted({row["spread"] for row in run["signal"]})
            }
            for n in Signals(run, 0.15).replicas
        },
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


def predicted(name: str, few: int, n: int) -> float:
    """Return how least squares lets t grow from `few` replicas to `n`."""
    law = math.sqrt(_square(n) / _square(few))
    if name in (HELD_BY, CLIMBED_BY):
        return law * _bend(few) / _bend(n)
    law *= _inflation(n) / _inflation(few)
    # A batch of 1/N of the examples has N times the variance.
    return law * math.sqrt(few / n) if name == OWN else law


def _square(n: int) -> float:
    """Return the sum of the squared offsets of N replicas on an even grid from -1 to 1."""
    return n * (n + 1) / (3 * (n - 1))


def _bend(n: int) -> float:
    """Return the deviation that least squares takes a bend of the losses, z squared, for."""
    squares = [(2 * r / (n - 1) - 1) ** 2 for r in range(n)]
    middle = statistics.fmean(squares)
    return math.sqrt(sum((x - middle) ** 2 for x in squares) / (n - 2))


def _inflation(n: int) -> float:
    """Return the mean of t over its slope in true standard errors: few replicas overstate."""
    free = n - 2
    return math.sqrt(free / 2) * math.exp(math.lgamma((free - 1) / 2) - math.lgamma(free / 2))


def _largest(entries: Iterable[dict[str, float] | None]) -> dict[str, float]:
    return max((e for e in entries if e is not None), key=lambda e: abs(e["mean"]))


def _seeds(seeds: dict[str, dict[str, int]]) -> pd.DataFrame:
    replicas = list(seeds["explorer"])
    return pd.DataFrame(
        {"runs": kind, **{f"N = {n}": counts.get(n, "-") for n in replicas}}
        for kind, counts in seeds.items()
    )


def _sweep(sweep: dict[str, Any]) -> pd.DataFrame:
    rows = sorted((float(rate), entry) for rate, entry in sweep.items())
    return pd.DataFrame(
        {"peak rate of a plain run": f"{rate:g}", "held-out loss": cell(entry, 4)}
        for rate, entry in rows
    )


def _grid(signals: Signals) -> list[tuple[str, int]]:
    return [(name, n) for name in (HELD_BY, CLIMBED_BY, OWN, ONE) for n in signals.replicas]


def _t(signals: Signals) -> pd.DataFrame:
    lines = []
    for name, n in _grid(signals):
        line = {"losses": name, "N": n}
        for rate in signals.rates:
            row = signals.row(name, n, rate)
            line[f"at {times(rate)}"] = f"{cell(row['t'])} ({row['deviation of t']:.1f})"
        lines.append(line)
    return pd.DataFrame(lines)


def _signs(signals: Signals) -> pd.DataFrame:
    most = max(signals.replicas)
    wrong = [rate for rate in signals.rates if not math.isclose(rate, 1)]
    lines = []
    for name, n in _grid(signals):
        found = {times(rate): signals.row(name, n, rate) for rate in wrong}
        line = {"losses": name, "N": n}
        line |= {f"right at {rate}": percent(row[RIGHT]) for rate, row in found.items()}
        line["confidence"] = cell(signals.mean("evidence", name, n))
        for rate, row in found.items():
            line[f"as N = {most} at {rate}"] = "-" if n == most else percent(row[SAME])
        lines.append(line)
    return pd.DataFrame(lines)


def _growth(signals: Signals, few: int) -> pd.DataFrame:
    more = [n for n in signals.replicas if n > few]
    pairs = [*((few, n) for n in more), *pairwise(more)]
    lines = []
    for name in (HELD_BY, CLIMBED_BY, OWN, ONE):
        line = {"losses": name}
        for a, b in pairs:
            text = f"{_grown(signals, name, a, b)} ({predicted(name, a, b):.2f})"
            line[f"N = {a} to {b}"] = text
        lines.append(line)
    return pd.DataFrame(lines)


def _grown(signals: Signals, name: str, few: int, n: int) -> str:
    if name in (HELD_BY, CLIMBED_BY):
        key = "median of abs t"
        ratios = [
            signals.row(name, n, rate)[key] / signals.row(name, few, rate)[key]
            for rate in signals.rates
        ]
        return f"{statistics.geometric_mean(ratios):.2f}"
    one, other = (signals.row(name, k, CLEAR)["t"] for k in (n, few))
    ratio = one["mean"] / other["mean"]
    error = ratio * math.hypot(*(x["error"] / x["mean"] for x in (one, other)))
    return f"{ratio:.2f} ± {error:.2f}"


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
            "search": f"{row['climbing']:.1f}",
            "exclusions": f"{row['cliffs']:.1f}",
            "rollbacks": f"{row['explosions']:.1f}",
        }
        for row in sorted(found, key=lambda r: (r["kind"], r["start"], r["replicas"]))
    )


def _spread_signals(run: dict[str, Any]) -> pd.DataFrame:
    some = {s: Signals(run, s) for s in sorted({row["spread"] for row in run["signal"]})}
    narrow = some[min(some)]
    lines = []
    for name in (HELD_BY, OWN):
        for n in narrow.replicas:
            for spread, signals in some.items():
                line = {"losses": name, "N": n, "spread": f"{spread:g}"}
                for rate in narrow.rates:
                    row = signals.row(name, n, rate)
                    line[f"t at {times(rate)}"] = cell(row["t"])
                    line[f"right at {times(rate)}"] = percent(row[RIGHT])
                lines.append(line)
    return pd.DataFrame(lines)


def _spread_regret(run: dict[str, Any]) -> pd.DataFrame:
    some = Signals(run, min(row["spread"] for row in run["signal"])).replicas
    order = sorted(run["regret"], key=lambda r: (r["start"], r["replicas"], r["spread"]))
    return pd.DataFrame(
        {
            "start": times(row["start"]),
            "N": row["replicas"],
            "spread": f"{row['spread']:g}",
            "regret": percent(row["regret"], 1, "+"),
            "over the default spread": percent(row["over the default spread"], 1, "+"),
        }
        for row in order
        if row["kind"] == "explorer" and row["replicas"] in some
    )


def _averages(run: dict[str, Any]) -> pd.DataFrame:
    order = sorted(run["average"], key=lambda r: (r["spread"], r["rate"], r["replicas"]))
    return pd.DataFrame(
        {
            "spread": f"{row['spread']:g}",
            "rate / best": times(row["rate"]),
            "N": row["replicas"],
            "mean factor": f"{row['mean factor']:.3f}",
            "distance": cell(row["distance"], 4),
            "over plain": percent(row["over plain"], 2, "+"),
            "over plain at the mean rate": percent(row["over plain at the mean rate"], 2, "+"),
        }
        for row in order
    )
