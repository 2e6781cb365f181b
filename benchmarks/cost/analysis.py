"""What docs/results/cost.md says, from its record."""

from typing import Any

import pandas as pd

from ..core.records import record

KINDS = ("wire", "shared", "work")


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    run = record("cost")
    real = [row for row in run["rows"] if "seconds" in row]
    cases = {
        (name, n): case
        for n, one in run["processes"].items()
        for name, case in one["cases"].items()
    }
    return {
        "run": run,
        "cases": _cases(cases),
        "medians": {kind: [case[kind]["median"] for case in cases.values()] for kind in KINDS},
        "percent": percent,
        "between": between,
        "overheads": {
            t: [row["overhead"][i] for row in real] for i, t in enumerate(run["intervals"])
        },
        # Over the time of one step's gradients, in fp32.
        "gradients": [row["gradients"][1] for row in real],
        # Of one batch.
        "probe": {
            t: [row["overhead"][0][i] for row in run["explorer"]]
            for i, t in enumerate(run["intervals"])
        },
        # The most that a sync of a sharded model adds.
        "sharded": {
            t: max(row["overhead"][i] for row in real if row["shards"] > 1)
            for i, t in enumerate(run["intervals"])
        },
        "assumptions": _assumptions(run),
        "in_bf16": max(abs(row["seconds in bf16"] / row["seconds"] - 1) for row in real),
        "clusters": _clusters(run, real),
        "choice": _choice(run, real),
    }


def percent(value: float) -> str:
    """Return a share in percent, to two digits."""
    return f"{100 * value:.2g} %"


def between(found: list[float]) -> str:
    """Return the range of some numbers."""
    return f"{min(found):.2f} to {max(found):.2f}"


def _plan(row: dict[str, Any]) -> str:
    return row["model"] + (f", {row['shards']} shards" if row["shards"] > 1 else ", DDP")


def _cases(cases: dict[tuple[str, str], dict[str, Any]]) -> pd.DataFrame:
    def pm(value: dict[str, float]) -> str:
        return f"{value['median']:.2f} ± {value['error']:.2f}"

    return pd.DataFrame(
        {
            "averaged": name,
            "processes": n,
            "measured, ms": f"{case['ms']:.0f}",
            "predicted / measured": pm(case["shared"]),
            "of the work": pm(case["work"]),
        }
        for (name, n), case in cases.items()
    )


def _assumptions(run: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "what": one["what"],
            "value": f"{one['value']:,.6g} {one['unit']}".strip(),
            "source": one["source"],
        }
        for one in run["assumptions"]
    )


def _clusters(run: dict[str, Any], rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": _plan(row),
            "GPUs": f"{row['gpus']:,}",
            "replicas": f"{row['replicas']:,}",
            "one sync": f"{row['seconds']:.3f} s",
            **{
                f"T = {t:,}": percent(value)
                for t, value in zip(run["intervals"], row["overhead"], strict=True)
            },
        }
        for row in rows
    )


def _choice(run: dict[str, Any], rows: list[dict[str, Any]]) -> pd.DataFrame:
    lines = []
    for plan in dict.fromkeys(map(_plan, rows)):
        mine = [row for row in rows if _plan(row) == plan]
        line = {"model": plan}
        for i, t in enumerate(run["intervals"]):
            line[f"T = {t:,}"] = percent(max(row["overhead"][i] for row in mine))
        for i, share in enumerate(run["shares"]):
            most = max(row["interval"][i] for row in mine)
            line[f"T for {percent(share)}"] = f"{most:,}"
        lines.append(line)
    return pd.DataFrame(lines)
