"""The table of the study's times, from its record; docs/results/bilevel.md shows it."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

_SIDES = {
    "scipy": "SciPy's conjugate gradients, image by image",
    "batched": "all images in one batch",
}


def table(problems: Mapping[str, Any]) -> pd.DataFrame:
    """Return the time of an outer step in hdet and in NumPy, with their ratio and quartiles."""
    rows = []
    for name, measured in problems.items():
        for peer, against in measured["hdet against"].items():
            ours, theirs = (measured["sides"][side] for side in ("hdet", peer))
            ratio, spread = against["outer step, ratio of medians"], against["round by round"]
            rows.append(
                {
                    "problem, and what it is compared with": f"{name}, {_SIDES[peer]}",
                    "hdet, ms": f"{ours['ms per outer step']:.1f}",
                    "NumPy, ms": f"{theirs['ms per outer step']:.1f}",
                    "ratio": f"{ratio:.2f} ({spread['lower']:.2f} to {spread['upper']:.2f})",
                }
            )
    return pd.DataFrame(rows)
