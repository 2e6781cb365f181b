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
        "gpu_layouts": _on_a_gpu(gpu["averaging"]),
        "gpu_steps": _steps(gpu["steps, us"]),
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


def _on_a_gpu(layouts: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layout": name,
            "one copy, ms": f"{row['copy, ms']:.2f}",
            "`average_`, ms": f"{row['average_, ms']:.1f}",
            "/ copy": f"{row['average_ / copy']:.1f}",
            "divergence measured, ms": f"{row['with divergence, ms']:.1f}",
            "/ copy ": f"{row['with divergence / copy']:.1f}",
        }
        for name, row in layouts.items()
    )


def _steps(groups: dict[str, Any]) -> pd.DataFrame:
    pairs = {"Explorer": "cosine", "OneCycleAutoLR": "one cycle"}
    lines = []
    for name, row in groups.items():
        line = {"parameter groups": name.replace(" groups, lr", ", the rate")}
        for ours, theirs in pairs.items():
            line[f"{theirs}, µs"] = f"{row[theirs]:.0f}"
            line[f"`{ours}`, µs"] = f"{row[ours]:.0f}"
        lines.append(line)
    return pd.DataFrame(lines)
