"""What docs/results/index.md says: the values of the pages that it leads to."""

from importlib import import_module
from typing import Any

STUDIES = (
    "averaging",
    "bilevel",
    "compare",
    "converging",
    "cost",
    "federated",
    "penalties",
    "rate_rules",
    "remedies",
    "robustness",
    "scale",
    "soak",
)


def values() -> dict[str, Any]:
    """Return each study's values by its name."""
    return {name: import_module(f"benchmarks.{name}.analysis").values() for name in STUDIES}
