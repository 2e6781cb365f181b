"""What docs/benchmarks.md says, from the records of `averaging` and `overhead`."""

from typing import Any

import pandas as pd

from ..core.records import record


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    average, overhead = record("averaging"), record("overhead")
    layouts = average["results"]
    return {
        "average": average,
        "overhead": overhead,
        "layouts": pd.DataFrame([_row(name, row) for name, row in layouts.items()]),
        "torch": {name: row["hdet / torch"] for name, row in layouts.items()},
    }


def _row(name: str, row: dict[str, Any]) -> dict[str, str]:
    keys = ("floor / limit", "hdet / limit", "torch / limit", "hdet / torch")
    ratios = {key: f"{row[key]['median']:.2f} ± {row[key]['error']:.2f}" for key in keys}
    return {
        "layout": name,
        "limit, ms": f"{row['ms']['limit']:.0f}",
        "copying floor / limit": ratios.pop("floor / limit"),
        **ratios,
        "extra memory, buckets": f"{row['extra memory in buckets']:.2f}",
    }
