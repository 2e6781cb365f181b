"""What docs/results/cost.md says, from its record."""

from typing import Any

import pandas as pd

from ..core.records import record

PARTS = ("wire", "copies", "host", "roll_call")
KEPT = {2: "bf16", 4: "fp32"}
KINDS = ("wire", "path", "shared", "work")
MEASURED = {
    "small ms": "all-reduce of 1 KiB, ms",
    "latency ms": "latency of an all-reduce, ms",
    "wire GB/s": "its bytes, GB/s",
    "memory GB/s": "memory, read and written, all processes at once, GB/s each",
    "cache GB/s": "the same within 2 MiB, GB/s each",
    "piece us": "host, for each tensor, µs",
    "request us": "a TCP store, for each request while all ask, µs",
    "cores": "cores that other programs left",
}


def values() -> dict[str, Any]:
    """Return the numbers that the page names."""
    run = record("cost")
    processes, real = run["processes"], [row for row in run["rows"] if "seconds" in row]
    cases = {
        f"{name}, {n} processes": case
        for n, one in processes.items()
        for name, case in one["cases"].items()
    }
    return {
        "run": run,
        "processes": {n: _cases(n, one["cases"]) for n, one in processes.items()},
        "measured": _measured(processes),
        "medians": {kind: [case[kind]["median"] for case in cases.values()] for kind in KINDS},
        "least_work": min(cases, key=lambda name: cases[name]["work"]["median"]),
        "pm": pm,
        "percent": percent,
        "between": between,
        "overheads": {
            t: [row["overhead"][i] for row in real] for i, t in enumerate(run["intervals"])
        },
        "short": [row["with short runs"] / row["seconds"] for row in real],
        "assumptions": _assumptions(run),
        "in_bf16": max(abs(row["seconds in bf16"] / row["seconds"] - 1) for row in real),
        "clusters": {
            plan: _cluster(run, [row for row in run["rows"] if _plan(row) == plan])
            for plan in dict.fromkeys(map(_plan, run["rows"]))
        },
        "explorer": _explorer(run),
        "memory": _memory(run),
        "too_large": [
            f"{_plan(row)}, {KEPT[row['kept']]}"
            for row in run["memory"]
            if row["training"] > run["capacity"]
        ],
        "choice": _choice(run, real),
    }


def pm(value: dict[str, float]) -> str:
    """Return a median and its standard error."""
    return f"{value['median']:.2f} ± {value['error']:.2f}"


def percent(value: float) -> str:
    """Return a share in percent, to two digits."""
    return f"{100 * value:.2g} %"


def between(found: list[float]) -> str:
    """Return the range of some numbers."""
    return f"{min(found):.2f} to {max(found):.2f}"


def _plan(row: dict[str, Any]) -> str:
    return row["model"] + (f", {row['shards']} shards" if row["shards"] > 1 else ", DDP")


def _measured(processes: dict[str, Any]) -> pd.DataFrame:
    rows = [
        {"measured": name, **{f"{n} processes": pm(one[key]) for n, one in processes.items()}}
        for key, name in MEASURED.items()
    ]
    rounds = {f"{n} processes": one["rounds"] for n, one in processes.items()}
    return pd.DataFrame([*rows, {"measured": "rounds that count", **rounds}])


def _cases(n: str, cases: dict[str, Any]) -> pd.DataFrame:
    names = dict(zip(KINDS, ("wire", "overlap", "**shared**", "work"), strict=True))
    return pd.DataFrame(
        {
            f"{n} processes": name,
            "measured, ms": f"{case['ms']:.0f}",
            **{title: pm(case[kind]) for kind, title in names.items()},
        }
        for name, case in cases.items()
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


def _cluster(run: dict[str, Any], rows: list[dict[str, Any]]) -> pd.DataFrame:
    lines = []
    for row in rows:
        line = {"GPUs": f"{row['gpus']:,}"}
        if "seconds" in row:
            line |= {"replicas": f"{row['replicas']:,}", "one sync, s": f"{row['seconds']:.3f}"}
            line |= {part.replace("_", " "): f"{row['parts'][part]:.3f}" for part in PARTS}
            line["short runs"] = f"{row['with short runs']:.3f}"
            for precision, value in zip(("bf16", "fp32"), row["gradients"], strict=True):
                line[f"gradients, {precision}"] = f"{value:.1f}"
            for t, value in zip(run["intervals"], row["overhead"], strict=True):
                line[f"T = {t:,}"] = percent(value)
            for share, t in zip(run["shares"], row["interval"], strict=True):
                line[f"T for {percent(share)}"] = f"{t:,}"
        lines.append(line)
    return pd.DataFrame(lines).fillna("-")


def _explorer(run: dict[str, Any]) -> pd.DataFrame:
    columns = [
        f"{b} batch{'es' * (b > 1)}, T = {t:,}"
        for b in run["probe batches"]
        for t in run["intervals"]
    ]
    lines = []
    for row in run["explorer"]:
        shares = [percent(share) for batch in row["overhead"] for share in batch]
        head = {"model": _plan(row), "kept in": KEPT[row["kept"]]}
        head["passes, s"] = f"{row['passes']:.3f}"
        lines.append({**head, **dict(zip(columns, shares, strict=True))})
    return pd.DataFrame(lines)


def _memory(run: dict[str, Any]) -> pd.DataFrame:
    names = {
        "training": "training",
        "buckets": "two buckets",
        "average": "Explorer's average",
        "probe": "and while it probes",
    }
    return pd.DataFrame(
        {
            "model": _plan(row),
            "kept in": KEPT[row["kept"]],
            **{title: f"{row[key] / 1e9:.2f}" for key, title in names.items()},
        }
        for row in run["memory"]
    )


def _choice(run: dict[str, Any], rows: list[dict[str, Any]]) -> pd.DataFrame:
    lines = []
    for plan in dict.fromkeys(map(_plan, rows)):
        found = zip(*(row["interval"] for row in rows if _plan(row) == plan), strict=True)
        line = {"a sync adds, at every size above": plan}
        for share, intervals in zip(run["shares"], found, strict=True):
            line[f"at most {percent(share)}"] = f"T = {max(intervals):,}"
        lines.append(line)
    return pd.DataFrame(lines)
