"""What docs/results/remedies.md says, from the records of remedies and scalars."""

from statistics import fmean
from typing import Any

import pandas as pd

from ..core.records import record
from ..core.statistics import Estimate


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    remedies, scalars = record("remedies"), record("scalars")
    groups = scalars["groups"]["factor over the geometric mean"]
    factors = {name: _estimate(entry) for name, entry in groups.items()}
    return {
        "remedies": remedies,
        "scalars": scalars,
        "bias": {
            problem: _bias(rows, remedies["starts"])
            for problem, rows in remedies["bias"].items()
        },
        "regrets": _regrets(remedies),
        "plain": "as it is",
        "mean": lambda change, problem: fmean(remedies["regret"][change][problem]),
        "means_of": lambda change: fmean(map(fmean, remedies["regret"][change].values())),
        "cases": _cases(scalars["cases"]),
        "factors": dict(sorted(factors.items(), key=lambda item: item[1].mean)),
    }


def _bias(rows: dict[str, list[float]], starts: list[float]) -> pd.DataFrame:
    names = [_start(start) for start in starts]
    return pd.DataFrame(
        {"scored at": label, **dict(zip(names, (f"{v:+.2f}" for v in found), strict=True))}
        for label, found in rows.items()
    )


def _regrets(record: dict[str, Any]) -> pd.DataFrame:
    names = [_start(start) for start in record["regret starts"]]
    lines = []
    for problem in next(iter(record["regret"].values())):
        for change, found in record["regret"].items():
            regrets = found[problem]
            texts = map(_percent, [*regrets, sum(regrets) / len(regrets)])
            cells = dict(zip([*names, "mean"], texts, strict=True))
            lines.append({"problem": problem, "change": change, **cells})
    return pd.DataFrame(lines)


def _cases(cases: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "explored": label,
            "bad value": _listed(case["bad"].values()),
            "best of sweep": _listed(case["best"].values()),
            "ended at": _listed(entry["mean"] for entry in case["final"].values()),
            "loss: bad": f"{_estimate(case['loss at the bad value']):.3f}",
            "explored ": f"{_estimate(case['loss explored']):.3f}",
            "best": f"{_estimate(case['loss at the best value']):.3f}",
            "share of the gap closed": f"{_estimate(case['share of the gap closed']):.2f}",
        }
        for label, case in cases.items()
    )


def _estimate(entry: dict[str, float]) -> Estimate:
    return Estimate(entry["mean"], entry["error"], record("scalars")["seeds"])


def _listed(values: Any) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _percent(value: float) -> str:
    return f"{value:+.1f} %" if abs(value) < 1000 else "diverged"


def _start(value: float) -> str:
    return f"{value:g}" if value >= 1 else f"1/{1 / value:.0f}"
