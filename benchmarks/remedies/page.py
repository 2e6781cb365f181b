"""Make docs/remedies.md from records/remedies.json and records/scalars.json."""

import json
from pathlib import Path

RECORDS = Path(__file__).parent / "records"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _percent(value: float) -> str:
    return f"{value:+.1f} %" if abs(value) < 1000 else "diverged"


def _start(value: float) -> str:
    return f"{value:g}" if value >= 1 else f"1/{1 / value:.0f}"


def remedies_page(records: Path = RECORDS) -> str:
    """Return docs/remedies.md."""
    remedies = json.loads((records / "remedies.json").read_text())
    scalars = json.loads((records / "scalars.json").read_text())
    lines = [
        "# Why Explorer is built as it is",
        "",
        "Written by `python benchmarks/write_docs.py` from `benchmarks/records`.",
        f"torch {remedies['torch']}, Python {remedies['python']}.",
        "",
    ]
    lines += _bias(remedies) + _ablations(remedies) + _other_scalars(scalars)
    return "\n".join(lines + _groups(scalars))


def _bias(record: dict) -> list[str]:
    starts = [_start(s) for s in record["starts"]]
    lines = [
        "## Short-horizon bias, and averaged weights",
        "",
        f"`{record['command']}`, {record['seeds']} seeds. Plain one-cycle runs at fixed peak",
        "rates, given as multiples of the best. Replicas stand 30 % around the rate and score",
        "a common probe batch at every sync; the table has the mean evidence that a larger",
        "rate would be better, from -1 to 1. A controller settles where it changes sign, and",
        "that should be 1. *Reach* is where the replicas are scored: 1 at their own weights,",
        "less nearer to the moving average of the converged weights.",
        "",
    ]
    for problem, rows in record["bias"].items():
        lines += [f"**{problem}**", "", "| scored at | " + " | ".join(starts) + " |"]
        lines.append("|---" * (len(starts) + 1) + "|")
        for label, values in rows.items():
            lines.append(f"| {label} | " + " | ".join(map(_signed, values)) + " |")
        lines.append("")
    lines += [
        "At the weights themselves the sign turns far below the best rate, and further so as",
        "training goes on. Near the averaged weights it turns much closer to the best rate,",
        "with less certainty each time. This is what Explorer holds the rate by.",
        "",
    ]
    return lines


def _ablations(record: dict) -> list[str]:
    starts = [_start(s) for s in record["regret starts"]]
    lines = [
        "## One part changed at a time",
        "",
        "Regret of Explorer against the best of the plain runs from the same starts, in",
        f"percent; {record['seeds']} seeds, so read large differences only.",
        "",
        "| problem | change | " + " | ".join(starts) + " | mean |",
        "|---" * (len(starts) + 3) + "|",
    ]
    for problem in record["bias"]:
        for label, table in record["regret"].items():
            values = table[problem]
            mean = sum(values) / len(values)
            cells = " | ".join(map(_percent, [*values, mean]))
            lines.append(f"| {problem} | {label} | {cells} |")
    return [*lines, ""]


def _other_scalars(record: dict) -> list[str]:
    def cell(entry: dict, digits: int = 3) -> str:
        return f"{entry['mean']:.{digits}f} ± {entry['error']:.{digits}f}"

    def listed(values: dict) -> str:
        return ", ".join(f"{value:.2g}" for value in values.values())

    lines = [
        "## Other scalars",
        "",
        f"`{record['command']}`: an MLP on 400 images of digits, {record['replicas']}",
        f"replicas, {record['steps']} steps, T = {record['sync_every']}; {record['seeds']}",
        "seeds ± standard errors. Each starts at a bad value; the best one is that of a sweep",
        "of plain runs. The share of the gap is what exploration wins back of the held-out",
        "loss that the bad value",
        "costs.",
        "",
        "| explored | bad value | best of sweep | ended at | loss: bad | explored | best "
        "| share of the gap closed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label, case in record["cases"].items():
        final = {n: entry["mean"] for n, entry in case["final"].items()}
        lines.append(
            f"| {label} "
            f"| {listed(case['bad'])} | {listed(case['best'])} | {listed(final)} "
            f"| {cell(case['loss at the bad value'])} | {cell(case['loss explored'])} "
            f"| {cell(case['loss at the best value'])} "
            f"| {cell(case['share of the gap closed'], 2)} |"
        )
    return [
        *lines,
        "",
        "A learning rate's final value is the factor on its schedule. Dropout and label",
        "smoothing are read through their direct effect on the probe's loss, which always",
        "asks for less of them: here that is the right way, and it would be the wrong way",
        "where they start too low.",
        "",
    ]


def _groups(record: dict) -> list[str]:
    groups = record["groups"]
    rows = groups["factor over the geometric mean"]
    order = sorted(rows, key=lambda name: rows[name]["mean"])
    claim = order[0] == "transformer" and order[-1] == "no_decay"
    spread = max(r["mean"] for r in rows.values()) - min(r["mean"] for r in rows.values())
    noise = max(r["error"] for r in rows.values())
    lines = [
        "## Rates of the parameter groups",
        "",
        f"The `{groups['task']}` task with the paper's four groups, each with a factor of",
        f"its own, {record['replicas']} replicas, {groups['steps']} steps. The factor of each",
        "group at the end over their geometric mean:",
        "",
        "| group | factor |",
        "|---|---|",
    ]
    for name in order:
        lines.append(f"| {name} | {rows[name]['mean']:.2f} ± {rows[name]['error']:.2f} |")
    clear = spread > 3 * noise
    return [
        *lines,
        "",
        "The paper reports that the transformer's rate decays fastest and `no_decay`'s",
        f"slowest. Here the order {'is that' if claim else 'is another'}, and the groups",
        f"{'differ by more than' if clear else 'do not differ by'} three standard errors.",
        "",
    ]
