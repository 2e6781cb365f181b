"""Read a soak: what the notes of its ranks show, and which checks failed."""

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.records import record

MOST_GROWTH = 0.01  # of a rank's memory, over the stretch without kills
EXPLODING = ("all four at once",)  # the kinds after which nobody is finite
# What the ranks noted at one meeting, and all meetings of an attempt by (step, where).
Notes = list[dict]
Meetings = dict[tuple[int, str], Notes]


def notes_of(folder: Path, attempt: int, rank: int | str = "*") -> Iterator[dict]:
    """Yield what the ranks noted between two restarts."""
    for file in sorted(folder.glob(f"{attempt}.{rank}.notes")):
        yield from map(json.loads, file.read_text().splitlines())


def _meetings(folder: Path, attempt: int) -> Meetings:
    found: Meetings = {}
    for entry in notes_of(folder, attempt):
        if "met" in entry:
            found.setdefault((entry["step"], entry["met"]), []).append(entry)
    return found


def _same(notes: Notes) -> bool:
    return len({entry["hash"] for entry in notes}) == 1


def verdict(
    folder: Path, ranks: int, interval: int, faults: Mapping[int, Any], kills: int
) -> dict:
    """Return what the notes show, with the names of the checks that failed.

    `faults` by step, each with `kind` and `replicas`; `kills` were wanted.
    """
    attempts = 1 + max((int(f.name.split(".")[0]) for f in folder.glob("*.0.notes")), default=0)
    passages = [_meetings(folder, attempt) for attempt in range(attempts)]
    # What a kill undid was done again, and is counted once.
    once: Meetings = dict(sorted({k: v for p in passages for k, v in p.items()}.items()))
    ends = [x for x in notes_of(folder, attempts - 1) if "ended" in x]
    content = {
        "drift": _drift(passages, ranks),
        "faults": _faults(once, interval, faults),
        "masks": _masks(once, interval, faults, ranks, ends),
        "kills": _kills(folder, passages),
        "memory": _memory(folder, attempts - 1, ranks),
        "steps per second": ends[0]["rate"] if ends else None,
        "metrics": {k: ends[0][k] for k in ("explosions", "cliffs", "syncs")} if ends else {},
    }
    return {**content, "failed": _failed(content, len(ends) == ranks, kills)}


def _drift(passages: list[Meetings], ranks: int) -> dict:
    every = [(key, notes) for passage in passages for key, notes in passage.items()]
    # The last meeting before a kill may lack the notes of those who were ended for it.
    last = [max(passage, default=None) for passage in passages[:-1]]
    return {
        "meetings": len(every),
        "in converged": sum(key[1] == "converged" for key, _ in every),
        "comparisons": sum(len(notes) - 1 for _, notes in every),
        "mismatches": sum(not _same(notes) for _, notes in every),
        "first mismatch": next((list(key) for key, n in every if not _same(n)), None),
        "incomplete": sum(len(n) != ranks and key not in last for key, n in every),
        "not finite": sum(not all(entry["finite"] for entry in n) for _, n in every),
    }


def _faults(once: Meetings, interval: int, faults: Mapping[int, Any]) -> dict[str, dict]:
    """Return by kind how many were injected, seen at the next meeting, healed by the sync."""
    rows: dict[str, dict[str, int]] = {}
    blank = {"injected": 0, "seen": 0, "healed": 0, "explosions": 0}
    for step, fault in faults.items():
        row = rows.setdefault(fault.kind, dict(blank))
        row["injected"] += 1
        end = step // interval * interval + interval - 1
        first = next((notes for key, notes in once.items() if step <= key[0] <= end), [])
        after, before = (once.get((at, "sync"), []) for at in (end, end - interval))
        row["seen"] += bool(first) and all(
            entry["masked"] == list(fault.replicas) for entry in first
        )
        row["healed"] += bool(after) and _same(after) and all(x["finite"] for x in after)
        if after and before:
            row["explosions"] += after[0]["explosions"] - before[0]["explosions"]
    return rows


def _expected(key: tuple[int, str], interval: int, faults: Mapping[int, Any]) -> list[int]:
    """Return which replicas a meeting has to mask."""
    step, where = key
    for at in range(step // interval * interval, step + 1):
        fault = faults.get(at)
        if fault is not None:
            return list(fault.replicas)
    return []


def _masks(
    once: Meetings, interval: int, faults: Mapping[int, Any], ranks: int, ends: Notes
) -> dict:
    """Compare each meeting's masks, and their counts at the end, with what was injected."""
    total, wrong = [0] * ranks, []
    for key, notes in once.items():
        expected = _expected(key, interval, faults)
        for r in expected:
            total[r] += 1
        wrong += [[*key, entry["masked"]] for entry in notes if entry["masked"] != expected]
    counted = [entry["masked_total"] for entry in ends]
    return {
        "expected": total,
        "masked_total": counted[0] if counted else [],
        "as expected": all(count == total for count in counted),
        "wrong": len(wrong),
        "first wrong": wrong[:1],
    }


def _kills(folder: Path, passages: list[Meetings]) -> list[dict]:
    """Return for each kill what was done again after it, and whether it came out the same."""
    rows = []
    for attempt, (before, after) in enumerate(zip(passages, passages[1:], strict=False)):
        notes = list(notes_of(folder, attempt))
        killed = next((x for x in notes if "killed" in x), {})
        again = sorted(before.keys() & after.keys())
        rows.append(
            {
                "step": killed.get("killed"),
                "rank": killed.get("rank"),
                "while saving": killed.get("saving"),
                "steps without it": sum("went_on" in x for x in notes),
                "resumed at": next(notes_of(folder, attempt + 1), {}).get("began"),
                "done again": len(again),
                "same": sum(_same(before[key] + after[key]) for key in again),
            }
        )
    return rows


def _memory(folder: Path, attempt: int, ranks: int) -> dict:
    """Return the memory of each rank over the last attempt, which nobody interrupted."""
    rows, span = [], []
    for rank in range(ranks):
        notes = list(notes_of(folder, attempt, rank))
        samples = [x for x in notes if "memory" in x]
        tensors = [x["tensors"] for x in notes if "tensors" in x]
        tenth = len(samples) // 10
        if not tenth or len(tensors) != 2:
            return {}
        # The first tenth is warm-up: allocators and caches fill.
        early, late = samples[tenth : 2 * tenth], samples[-tenth:]
        kb = [statistics.median(x["memory"] for x in part) for part in (early, late)]
        rows.append({"kB": kb, "growth": kb[1] / kb[0] - 1, "tensors": tensors})
        if rank == 0:
            span = [samples[0]["step"], samples[-1]["step"]]
    return {"ranks": rows, "steps": span, "most growth": MOST_GROWTH}


def _failed(content: dict, ended: bool, kills: int) -> list[str]:
    """Return what did not come out as it has to."""
    drift, masks, memory = content["drift"], content["masks"], content["memory"]
    rows = content["faults"].items()
    checks = {
        "all ranks came to the end": ended,
        "ranks are the same at every meeting": drift["comparisons"] and not drift["mismatches"],
        "every rank was at every meeting": not drift["incomplete"],
        "all is finite after every meeting": not drift["not finite"],
        "every fault is seen": all(row["seen"] == row["injected"] for _, row in rows),
        "every fault is healed": all(row["healed"] == row["injected"] for _, row in rows),
        "nobody is masked without a fault": not masks["wrong"],
        "masked_total counts the faults": masks["as expected"],
        "an explosion for each fault of all, and no other": content["metrics"]
        and content["metrics"]["explosions"]
        == sum(row["explosions"] for kind, row in rows if kind in EXPLODING)
        == sum(row["injected"] for kind, row in rows if kind in EXPLODING),
        "ranks were killed as wanted": len(content["kills"]) == kills
        and all(k["step"] is not None for k in content["kills"]),
        "nobody trains on without a killed rank": not any(
            kill["steps without it"] for kill in content["kills"]
        ),
        "resumed runs are the same to the last bit": all(
            kill["done again"] and kill["same"] == kill["done again"]
            for kill in content["kills"]
        ),
        "memory is flat": memory
        and all(row["growth"] <= MOST_GROWTH for row in memory["ranks"]),
        "tensors are not kept": memory
        and all(row["tensors"][1] <= row["tensors"][0] for row in memory["ranks"]),
    }
    return [name for name, held in checks.items() if not held]


def values() -> dict[str, Any]:
    """Return the numbers that docs/results/soak.md names."""
    return {"run": record("soak")}
