"""Read a soak: judge the notes of its ranks, and make docs/soak.md from the record."""

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent / "records"

MOST_GROWTH = 0.01  # of a rank's memory, over the stretch without kills
EXPLODING = ("all four at once",)  # the kinds after which nobody is finite
# What the ranks noted at one meeting, and all meetings of an attempt by (step, where).
Notes = list[dict]
Meetings = dict[tuple[int, str], Notes]


# --- the notes


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


# --- the page


def soak_page(records: Path = RECORDS) -> str:
    """Return docs/soak.md."""
    record = json.loads((records / "soak.json").read_text())
    failed = record["failed"]
    held = "**All checks held.**"
    if failed:
        held = f"**Failed: {'; '.join(failed)}.** {record['last error']}".rstrip()
    lines = [
        "# Faults, kills, and what is left of them",
        "",
        "Written by `python benchmarks/write_docs.py` from `benchmarks/records`.",
        f"Machine: {record['machine']}; torch {record['torch']}.",
        "",
        f"`{record['command']}`: {record['steps']:,} steps of a tiny batch-norm model on",
        f"{record['ranks']} processes, under DDP with `hdet.finite_mean_hook` and",
        "`DDP(broadcast_buffers=False)`; `hdet.Explorer` tunes learning rate and weight decay",
        f"with a probe, and syncs every {record['T']} steps. Of the intervals,",
        f"{record['faulty intervals']:.0%} have a fault, drawn from (seed, step). In the first",
        "half ranks are killed by SIGKILL; torchrun then starts all again from the last",
        f"checkpoint. Rank 0 writes one every {record['checkpoint every']} steps, between two",
        "syncs, inside `with explorer.converged():`.",
        "",
        held,
        "",
    ]
    lines += _drift_part(record) + _faults_part(record) + _kills_part(record)
    return "\n".join(lines + _memory_part(record) + _limits())


def _drift_part(record: dict) -> list[str]:
    drift = record["drift"]
    return [
        "## Drift",
        "",
        "At each sync, and inside each `converged()` block, every rank notes a hash of the",
        "weights, the batch-norm buffers, AdamW's moments and step counts, the averaged",
        "weights, and Explorer's state: base values, the search, the schedule, all counts.",
        "",
        "| what | times |",
        "|---|---|",
        f"| meetings of the ranks | {drift['meetings']:,} |",
        f"| of those inside `converged()` | {drift['in converged']:,} |",
        f"| hashes compared with another rank's | {drift['comparisons']:,} |",
        f"| **differences** | **{drift['mismatches']:,}** |",
        f"| meetings after which something was not finite | {drift['not finite']:,} |",
        "",
    ]


def _faults_part(record: dict) -> list[str]:
    masks, metrics = record["masks"], record["metrics"]
    lines = [
        "## Faults",
        "",
        "*Seen*: the next meeting masks the broken replicas, and no other. *Healed*: after the",
        "next sync all is finite, and the same on all ranks. *Explosions* are the returns to",
        "the averaged weights at that sync.",
        "",
        "| fault | injected | seen | healed | explosions |",
        "|---|---|---|---|---|",
    ]
    for kind, row in sorted(record["faults"].items()):
        lines.append(f"| {kind} | " + " | ".join(str(n) for n in row.values()) + " |")
    agree = "as were expected" if masks["as expected"] else f"expected: {masks['expected']}"
    lines += [
        "",
        "Two or four at once break in one of the four manners, which is drawn too. Masks that",
        f"no fault explains, or that were missing: {masks['wrong']}. `masked_total` ends at",
        f"{masks['masked_total']}, {agree}: one for each meeting of the interval after the",
        "fault.",
    ]
    if metrics:
        lines.append(
            f"`metrics()` counts {metrics['explosions']} explosions and {metrics['cliffs']} "
            f"cliffs in {metrics['syncs']:,} meetings."
        )
    return [*lines, ""]


def _kills_part(record: dict) -> list[str]:
    lines = [
        "## Kills",
        "",
        "What a kill undid was done again after the resume. *The same*: the hashes of all",
        "ranks equal those of the first passage.",
        "",
        "| killed at step | rank | when | steps of others without it | resumed at "
        "| meetings done again | the same |",
        "|---|---|---|---|---|---|---|",
    ]
    for kill in record["kills"]:
        when = "as it wrote a checkpoint" if kill["while saving"] else "within a step"
        lines.append(
            f"| {kill['step']} | {kill['rank']} | {when} | {kill['steps without it']} "
            f"| {kill['resumed at']} | {kill['done again']} | {kill['same']} |"
        )
    return [
        *lines,
        "",
        "For that each start makes one forward and backward pass before it loads the",
        "checkpoint: DDP lays its buckets anew after the first pass, and with more than two",
        "ranks it sums in another order from then on. Plain DDP needs that as well to resume",
        "to the last bit.",
        "",
    ]


def _memory_part(record: dict) -> list[str]:
    memory = record["memory"]
    if not memory:
        return ["## Memory", "", "The run did not come far enough to tell.", ""]
    first, last = memory["steps"]
    lines = [
        "## Memory",
        "",
        f"Resident memory since the last restart, steps {first:,} to {last:,}: medians of the",
        "second tenth, as the first is warm-up, and of the last. At most",
        f"{memory['most growth']:.0%} of growth was allowed. Rank 0 has the store of the",
        "rendezvous. Tensors are counted by `gc.get_objects()` at both ends.",
        "",
        "| rank | MB early | MB late | growth | tensors early | tensors late |",
        "|---|---|---|---|---|---|",
    ]
    for rank, row in enumerate(memory["ranks"]):
        early, late = (kb / 1024 for kb in row["kB"])
        counts = " | ".join(str(n) for n in row["tensors"])
        lines.append(f"| {rank} | {early:.2f} | {late:.2f} | {row['growth']:+.2%} | {counts} |")
    rate = record["steps per second"]
    return [*lines, "", f"{rate:.0f} steps per second, the notes included.", ""]


def _limits() -> list[str]:
    return [
        "## What this does not show",
        "",
        "- One machine, gloo, float32, a model of a few hundred weights in one bucket of DDP:",
        "  the paths are exercised, not the sizes. Nothing of NCCL, CUDA or sharded models.",
        "- Only faults that make a loss or a weight NaN or infinite. A wrong finite value is",
        "  not seen, nor is an infinite second moment, which leaves the weights finite.",
        "- At most one fault per interval, none in the first, and none of all four in an",
        "  interval with a checkpoint: `converged()` raises where no replica is finite.",
        "- The probe has one batch. The place in a probe's loader is no part of the state:",
        "  with more, a resumed run is the same to the last bit only if the loader resumes.",
        "",
    ]
