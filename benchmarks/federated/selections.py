"""Who is asked to train: every selector's runs, and their differences to Random's.

Three numbers decide: the mean accuracy over the last rounds, its standard deviation over the
late ones (a curve that still rises has some of that, too), and the accuracy of the worst
class. The others are there because papers report them.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pandas as pd

from ..core.statistics import Estimate
from .methods import RANDOM, SELECTORS
from .starts import paired, ratio
from .study import MU, OTHER_MUS, TASKS

OURS = "hetero-select"
BASELINES = (RANDOM, "power-of-choice", "oort", "oort-without-system")
MEASURES = {
    "last": "last accuracy",
    "late_deviation": "late deviation",
    "worst_class": "worst class",
    "peak": "peak",
    "final": "final",
    "drop": "drop",
}
DECIDING = ("last", "late_deviation", "worst_class")
# Of these less is better.
LESS = ("late_deviation", "drop")

# The runs of a selector by task, mu and its name: a row for each seed.
Selections = dict[tuple[str, float, str], pd.DataFrame]
# Those at one mu, by task and the selector's name.
Compared = Mapping[str, Mapping[str, pd.DataFrame]]


def selections(runs: pd.DataFrame) -> Selections:
    """Return the runs of every selector, over the seeds that it and Random have finished.

    Args:
        runs: as `analysis.runs` gives them.
    """
    rows = runs[runs["experiment"] != "rates"].set_index("seed")
    chosen: Mapping[Any, pd.DataFrame] = dict(
        list(rows.groupby(["task", "proximal_mu", "selector"]))
    )
    found: Selections = {}
    for task in TASKS["selection"]:
        for mu, name in product(sorted({MU, *OTHER_MUS}), SELECTORS):
            mine, random = (chosen.get((task, mu, one)) for one in (name, RANDOM))
            if mine is not None and random is not None:
                both = mine.index.intersection(random.index)
                pairs = zip(random["accuracies"][both], mine["accuracies"][both], strict=True)
                if len(both):
                    ratios = [ratio(*pair) for pair in pairs]
                    found[task, mu, name] = mine.loc[both].assign(ratio=ratios)
    return found


def compared(found: Selections) -> Compared:
    """Return the selectors of each task at the mu where all are compared."""
    made: dict[str, dict[str, pd.DataFrame]] = {}
    for (task, mu, name), rows in found.items():
        if mu == MU:
            made.setdefault(task, {})[name] = rows
    return made


def better(row: pd.DataFrame, other: pd.DataFrame, measure: str) -> Estimate:
    """Return by how much a selector is better than another: above zero where it is."""
    pair = (other, row) if measure in LESS else (row, other)
    return paired(pair[0][measure], pair[1][measure])
