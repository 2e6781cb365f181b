"""What docs/results/penalties.md says, from the record of `penalties`."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pandas as pd
from scipy import stats

from ..core.records import record
from ..core.statistics import MISS, Estimate, difference, estimate

BASELINE = "`LogisticRegressionCV`"
NO_PRIOR = '`"weight"`, no prior'
DECAYS = {
    "as trained": "as trained",
    "none learned": "a decay that was not learned",
    "in all": "one decay in all",
    "per class": "a decay per class",
    "per weight": "a decay per weight",
}


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    found = record("penalties")
    data, seeds = found["logistic"], found["layer"]
    scores, gaps = logistic_tables(data)
    noise = data["noise"]["rows"][NO_PRIOR]
    return {
        "record": found,
        "noise": data["noise"],
        "t": float(stats.t.ppf(1 - MISS / 2, found["splits"] - 1)),
        "scores": scores,
        "gaps": gaps,
        # By how much the loss is below the baseline's.
        "gap": lambda name, method: -_differences(data[name]["rows"])[method].mean,
        "signs": {name: _signs(one["rows"]) for name, one in data.items()},
        "folds": {"noise": (fmean(noise["folds"]), fmean(noise["loss"]))},
        "layer": layer_table(seeds),
        "seeds": len(seeds),
        "refits": {
            DECAYS[name]: difference(
                [seed[name]["refitted"][0] for seed in seeds],
                [seed["in all"]["refitted"][0] for seed in seeds],
            )
            for name in seeds[0]
            if "refitted" in seeds[0][name] and name != "in all"
        },
    }


def logistic_tables(data: Mapping[str, Any]) -> list[pd.DataFrame]:
    """Return loss, accuracy and seconds; then the paired differences of the losses.

    Args:
        data: what `study.logistic` gave, by the data's name.
    """
    methods = max((one["rows"] for one in data.values()), key=len)
    first, second = {}, {}
    for name, one in data.items():
        rows, gaps = one["rows"], _differences(one["rows"])
        size = f"{name} ({one['fit'][0]:,} x {one['fit'][1]})"
        first[size] = [_scores(rows[m]) if m in rows else "" for m in methods]
        second[name] = [
            f"{gaps[m]:+.4f}" if m in gaps else "" for m in methods if m != BASELINE
        ]
    others = [method for method in methods if method != BASELINE]
    return [
        pd.DataFrame({"": list(methods), **first}),
        pd.DataFrame({f"minus {BASELINE}": others, **second}),
    ]


def layer_table(seeds: list[Any]) -> pd.DataFrame:
    """Return mean losses over seeds, before and after the refit."""
    kinds = {"mean loss": _losses(seeds, "judged"), "refitted": _losses(seeds, "refitted")}
    return pd.DataFrame(
        {
            "": label,
            **{title: f"{of[name]:.3f}" if name in of else "" for title, of in kinds.items()},
        }
        for name, label in DECAYS.items()
    )


def _scores(row: Mapping[str, list[float]]) -> str:
    loss, seconds = estimate(row["loss"]), fmean(row["seconds"])
    return f"{loss:.3f}, {_percent(fmean(row['accuracy']))}, {seconds:.1f} s"


def _differences(rows: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return each method's test loss minus the baseline's, split by split."""
    theirs = rows[BASELINE]["loss"]
    return {m: difference(row["loss"], theirs) for m, row in rows.items() if m != BASELINE}


def _signs(rows: Mapping[str, Any]) -> dict[int, list[str]]:
    """Return the methods whose interval is below zero, -1, around it, 0, and above, 1."""
    gaps = _differences(rows)
    return {sign: [m for m, gap in gaps.items() if gap.sign == sign] for sign in (-1, 0, 1)}


def _losses(seeds: list[Any], kind: str) -> dict[str, Estimate]:
    """Return mean losses over seeds, before the refit (`judged`) or after it (`refitted`)."""
    names = [name for name in seeds[0] if kind in seeds[0][name]]
    return {name: estimate(seed[name][kind][0] for seed in seeds) for name in names}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
