"""What docs/results/learning-rate-rules.md says, from the record of the rules and the trials.

A regret is a held-out loss over that of the sweep's best rate, seed by seed, less one, in
percent; below zero is better than the sweep, whose rates are a quarter of a decade apart.
"""

import math
import statistics
from typing import Any

import pandas as pd

from ..core.records import record

BASE, ONE_CROSSING = "base", "one crossing, cut 3"
ANEW = "initial weights, one crossing, cut 2"
# What changes where the climb crosses; up to the first crossing the first two are one rule.
SPEEDS = ["half the speed", BASE, "twice the speed", "smoothed over 10", "smoothed over 20"]
# In the order of the table: each changes the base in what it names, and nothing else.
SHOWN = [
    BASE,
    "moments kept",
    ONE_CROSSING,
    ANEW,
    "largest",
    "half the speed",
    "twice the speed",
    "smoothed over 10",
    "again at 6, 12, 25 %",
    "no hold",
]


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    found = record("rate_rules")
    problems = found["problems"]
    every, ratios = regrets(problems), trial_ratios(found)
    # The problems that all rules ran on.
    means = every.xs("mean", axis=1, level=1).dropna(axis=1)
    crossings = {name: _spread(one, "first crossing") for name, one in problems.items()}
    ends = {name: _spread(one, "end") for name, one in problems.items()}
    tiny = [name for name, one in problems.items() if one["model"] == "0.1M"]
    near = ends["0.1M, one-cycle"][ONE_CROSSING]
    return {
        "record": found,
        "one": ONE_CROSSING,
        "anew": ANEW,
        "tiny": tiny,
        "summary": summary_table(problems, crossings, ratios),
        "cost": pd.DataFrame({n: sweep_regrets(one) for n, one in problems.items()}).T,
        "wrong": _wrong_rates(problems),
        "every": every,
        "means": means,
        "rules": _rules_table(every),
        "rank": means.corr("spearman").loc["0.1M, warm-up + cosine", "10.8M, 350 steps"],
        "kept": means.loc["moments kept"] - means.loc[BASE],
        # Where the climb crosses first, the median over starts and seeds, by rule.
        "middle": pd.DataFrame(
            {
                rule: {n: pd.Series(crossings[n][rule]).median() for n in means}
                for rule in SPEEDS
            }
        ),
        "ends": ends,
        "off": max(near[-1] - 1, 1 - near[0]),
        "after": [v for name, of in ratios.items() if "after" in name for v in _all(of)],
    }


def sweep_regrets(problem: dict[str, Any]) -> dict[int, float]:
    """Return the sweep's regrets by quarter decades from its best rate."""
    means = _sweep_means(problem)
    best = means.index(min(means))
    return {i - best: 100 * (mean / means[best] - 1) for i, mean in enumerate(means)}


def regrets(problems: dict[str, Any]) -> pd.DataFrame:
    """Return each rule's mean and worst regret over the starts of each problem."""
    columns: dict[tuple[str, str], dict[str, float]] = {}
    for name, problem in problems.items():
        means = _sweep_means(problem)
        best = problem["sweep"]["held out"][means.index(min(means))]
        for rule, one in problem["rules"].items():
            each = [
                100 * statistics.fmean(map(_ratio, seeds, best)) - 100
                for seeds in one["held out"]
            ]
            columns.setdefault((name, "mean"), {})[rule] = statistics.fmean(each)
            columns.setdefault((name, "worst"), {})[rule] = max(each)
    return pd.DataFrame(columns)


def trial_ratios(found: dict[str, Any]) -> dict[str, dict[int, dict[str, float]]]:
    """Return the best rates of trials over a run's best, by trials, length and problem."""
    ratios: dict[str, dict[int, dict[str, float]]] = {}
    for trial in found["trials"]:
        runs = {n: p for n, p in found["problems"].items() if p["model"] == trial["model"]}
        for length, losses in trial["losses"].items():
            rate = trial["rates"][losses.index(min(losses))]
            rows = ratios.setdefault(_trial_name(trial), {})
            rows[int(length)] = {name: rate / run["best"] for name, run in runs.items()}
    return ratios


def summary_table(
    problems: dict[str, Any], crossings: dict[str, Any], ratios: dict[str, Any]
) -> pd.DataFrame:
    """Return which rates each way finds over the best one, by model, as ranges."""
    models = list(dict.fromkeys(one["model"] for one in problems.values()))

    def crossed(model: str) -> list[float]:
        # The base and this rule are one up to the first crossing; all problems have this one.
        mine = [name for name, one in problems.items() if one["model"] == model]
        return [v for name in mine for v in crossings[name][ONE_CROSSING]]

    def tried(model: str, start: str) -> list[float]:
        return [
            v
            for name, of in ratios.items()
            if name.startswith(f"{model}, {start}")
            for v in _all(of)
        ]

    ways = {
        "climb, until update and gradient disagree": crossed,
        "short trials from the initial weights": lambda model: tried(model, "from"),
        "short trials after some steps at a low rate": lambda model: tried(model, "after"),
    }
    return pd.DataFrame(
        {"found by": way, **{f"GPT of {model}": _range(of(model)) for model in models}}
        for way, of in ways.items()
    )


def _range(found: list[float]) -> str:
    return f"{min(found):.2g} to {max(found):.2g}" if found else "–"


def _sweep_means(problem: dict[str, Any]) -> list[float]:
    every = problem["sweep"]["held out"]
    return [statistics.fmean(_ratio(loss, 1.0) for loss in seeds) for seeds in every]


def _ratio(loss: float | None, of: float) -> float:
    return math.inf if loss is None else loss / of


def _wrong_rates(problems: dict[str, Any]) -> pd.DataFrame:
    steps = {-4: "1/10", -2: "1/3.2", -1: "1/1.8", 1: "1.8", 2: "3.2", 4: "10"}
    return pd.DataFrame(
        {
            "GPT": name,
            "best rate": f"{problem['best']:.2g}",
            **{label: _percent(sweep_regrets(problem).get(k)) for k, label in steps.items()},
        }
        for name, problem in problems.items()
    )


def _rules_table(every: pd.DataFrame) -> pd.DataFrame:
    means = every.xs("mean", axis=1, level=1)
    return pd.DataFrame(
        {
            "rule": rule,
            **{
                n: "–" if math.isnan(means.loc[rule, n]) else f"{means.loc[rule, n]:+z.1f}"
                for n in means
            },
        }
        for rule in SHOWN
    )


def _spread(problem: dict[str, Any], what: str) -> dict[str, list[float]]:
    """Return what all starts and seeds have of `what`, sorted, by rule."""
    return {
        rule: sorted(v for seeds in one[what] for v in seeds if v is not None)
        for rule, one in problem["rules"].items()
    }


def _all(ratios: dict[int, dict[str, float]]) -> list[float]:
    return [ratio for of in ratios.values() for ratio in of.values()]


def _trial_name(trial: dict[str, Any]) -> str:
    if trial["before"] is None:
        return f"{trial['model']}, from the initial weights"
    return f"{trial['model']}, after {trial['before'][0]} steps at {trial['before'][1]:g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"
