"""What docs/results/remedies.md says, from the records of remedies and scalars."""

from statistics import fmean, geometric_mean
from typing import Any

import pandas as pd

from ..core.records import record
from ..core.statistics import Estimate

PLAIN = "as it is"
# Of the run: where the replicas' losses are read for the page.
PHASE = "30% to 50% of the run"


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    remedies, scalars, trials = record("remedies"), record("scalars"), record("trials")
    gpts = record("gpts")
    groups = scalars["groups"]["factor over the geometric mean"]
    factors = {name: _estimate(entry) for name, entry in groups.items()}
    best = remedies["starts"].index(1.0)
    own, averaged = (
        {name: rows[f"reach {r}, {PHASE}"][best] for name, rows in remedies["bias"].items()}
        for r in ("1", "0.15")
    )
    return {
        "remedies": remedies,
        "scalars": scalars,
        "trials": trials,
        "chosen": _chosen(trials["chosen"]),
        "lowered": _lowered(trials["chosen"]),
        "gpts": gpts,
        "old_updates": _rising(record("deferred")),
        "averages": _averages(record("deferred")),
        "deferred": record("deferred"),
        "risen": record("deferred")["asked to rise"]["ngram-adamw"],
        "least_average": min(min(of["1"]) for of in record("deferred")["averages"].values()),
        "on_gpts": _by_problem(gpts["regret"]),
        "gpt_mean": lambda change, problem: fmean(gpts["regret"][change][problem]),
        "own": own,
        "averaged": averaged,
        "plain": PLAIN,
        "summary": _summary(remedies["regret"]),
        "regrets": _by_problem(remedies["regret"]),
        "mean": lambda change, problem: fmean(remedies["regret"][change][problem]),
        "least": min(
            fmean(map(fmean, found.values())) for found in remedies["regret"].values()
        ),
        "means_of": lambda change: fmean(map(fmean, remedies["regret"][change].values())),
        "cases": _cases(scalars["cases"]),
        "shares": [
            case["share of the gap closed"]["mean"] for case in scalars["cases"].values()
        ],
        "factors": dict(sorted(factors.items(), key=lambda item: item[1].mean)),
    }


def _summary(regret: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "change": change,
            "mean regret": _percent(fmean(map(fmean, found.values()))),
            "worst": _percent(max(map(max, found.values()))),
        }
        for change, found in regret.items()
    )


def _chosen(chosen: dict[str, Any]) -> pd.DataFrame:
    kinds = next(iter(chosen.values()))
    return pd.DataFrame(
        {
            "trial": kind,
            **{name: f"{geometric_mean(of[kind]):.2g}" for name, of in chosen.items()},
        }
        for kind in kinds
    )


def _rising(deferred: dict[str, Any]) -> pd.DataFrame:
    """Return the largest of the tried rates that is asked to rise, by lag and problem."""
    found = deferred["asked to rise"]
    lags = next(iter(found.values()))
    return pd.DataFrame(
        {
            "steps later": lag,
            **{
                name: f"{max(of[lag]):.2g}" if of[lag] else "none" for name, of in found.items()
            },
        }
        for lag in lags
    )


def _averages(deferred: dict[str, Any]) -> pd.DataFrame:
    """Return what averages change in the held-out loss at the best rate, in percent."""
    found = deferred["averages"]
    return pd.DataFrame(
        {
            "half-life": f"{share:.1%} of the run",
            **{name: f"{of['1'][k]:+.2f} %" for name, of in found.items()},
        }
        for k, share in enumerate(deferred["half-lives"])
    )


def _lowered(chosen: dict[str, Any]) -> list[float]:
    """Return by how much a quarter of the batch lowers what trials choose, by problem."""
    pairs = ((of["the whole batch"], of["1/4 of the batch"]) for of in chosen.values())
    return [geometric_mean(whole) / geometric_mean(part) for whole, part in pairs]


def _by_problem(regret: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {"change": change, **{name: _percent(fmean(of)) for name, of in found.items()}}
        for change, found in regret.items()
    )


def _cases(cases: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "explored": label,
            "bad value": _listed(case["bad"].values()),
            "best": _listed(case["best"].values()),
            "ended at": _listed(entry["mean"] for entry in case["final"].values()),
            "gap closed": f"{case['share of the gap closed']['mean']:.0%}",
        }
        for label, case in cases.items()
    )


def _estimate(entry: dict[str, float]) -> Estimate:
    return Estimate(entry["mean"], entry["error"], record("scalars")["seeds"])


def _listed(values: Any) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _percent(value: float) -> str:
    return f"{value:+.1f} %" if abs(value) < 1000 else "diverged"
