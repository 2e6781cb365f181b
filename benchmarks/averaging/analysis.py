"""What docs/results/averaging.md says, from the records of `averaging` and `overhead`."""

from typing import Any

import pandas as pd

from ..core.records import record


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    average, overhead, gpu = record("averaging"), record("overhead"), record("averaging_gpu")
    layouts = average["results"]
    return {
        "average": average,
        "overhead": overhead,
        "gpu": gpu,
        "layouts": pd.DataFrame([_row(name, row) for name, row in layouts.items()]),
        "torch": {name: row["hdet / torch"] for name, row in layouts.items()},
        # Microseconds of the host that Explorer adds to a cosine schedule.
        "more": [
            row["Explorer"] - row["cosine"]
            for name, row in gpu["steps, us"].items()
            if "number" in name
        ],
    }


def _row(name: str, row: dict[str, Any]) -> dict[str, str]:
    names = {
        "floor": "floor / limit",
        "hdet": "hdet / limit",
        "torch": "torch / limit",
        "hdet / torch": "hdet / torch",
    }
    return {
        "layout": name,
        "limit": f"{row['ms']['limit']:.0f} ms",
        **{
            title: f"{row[key]['median']:.2f} ± {row[key]['error']:.2f}"
            for title, key in names.items()
        },
        "memory": f"{row['extra memory in buckets']:.2f}",
    }
