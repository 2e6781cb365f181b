"""Make docs/penalties.md from records/penalties.json, and nothing else."""

import json
import math
import statistics
from pathlib import Path

RECORDS = Path(__file__).parent / "records"

RIVAL = "`LogisticRegressionCV`"
NO_PRIOR = '`"weight"`, no prior'
# Student's t at 95 % by degrees of freedom; a normal's beyond.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def _mean_error(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _differences(rows: dict, method: str) -> list[float]:
    pairs = zip(rows[method]["loss"], rows[RIVAL]["loss"], strict=True)
    return [ours - theirs for ours, theirs in pairs]


def _methods(record: dict) -> list[str]:
    """Return all methods in the order of the data that has most of them."""
    return list(max((d["rows"] for d in record["logistic"].values()), key=len))


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def logistic_tables(record: dict) -> list[str]:
    """Return loss, accuracy and seconds; then the paired differences of the losses."""
    data = record["logistic"]
    first, second = [], []
    for method in _methods(record):
        cells, gaps = [], []
        for found in data.values():
            row = found["rows"].get(method)
            if row is None:
                cells.append("")
                gaps.append("")
                continue
            mean, error = _mean_error(row["loss"])
            right, took = statistics.fmean(row["accuracy"]), statistics.fmean(row["seconds"])
            cells.append(f"{mean:.3f} ± {error:.3f}, {_percent(right)}, {took:.1f} s")
            gap, error = _mean_error(_differences(found["rows"], method))
            gaps.append(f"{gap:+.4f} ± {error:.4f}")
        first.append([method, *cells])
        if method != RIVAL:
            second.append([method, *gaps])
    sizes = [f"{name} ({d['fit'][0]:,} x {d['fit'][1]})" for name, d in data.items()]
    return [*_table(["", *sizes], first), *_table([f"minus {RIVAL}", *data], second)]


def layer_tables(record: dict) -> list[str]:
    """Return loss and accuracy seed by seed, and both means, before and after the refit."""
    seeds = record["layer"]
    rows = []
    for name in dict.fromkeys(name for found in seeds for name in found):
        row = [_DECAYS[name]]
        before = [found[name].get("judged") for found in seeds]
        row += [f"{x[0]:.3f}, {_percent(x[1])}" if x else "" for x in before]
        for kind in ("judged", "refitted"):
            values = [found[name][kind][0] for found in seeds if kind in found[name]]
            row.append("{:.3f} ± {:.3f}".format(*_mean_error(values)) if values else "")
        rows.append(row)
    head = ["", *(f"seed {seed}" for seed in range(len(seeds))), "mean loss", "refitted to all"]
    return _table(head, rows)


_DECAYS = {
    "as trained": "as trained",
    "none learned": "a decay that was not learned",
    "in all": "one decay in all",
    "per class": "a decay per class",
    "per weight": "a decay per weight",
}


def penalties_page(records: Path = RECORDS) -> str:
    """Return docs/penalties.md."""
    record = json.loads((records / "penalties.json").read_text())
    lines = [
        "# What many penalties gain",
        "",
        "Written by `python benchmarks/write_docs.py` from `benchmarks/records`.",
        f"`{record['command']}`; torch {record['torch']}, scikit-learn "
        f"{record['scikit-learn']}, {record['machine']}.",
        "How penalties are learned, and how to use it: [Bilevel](bilevel.md).",
        "",
    ]
    return "\n".join(lines + _logistic(record) + _layer(record))


def _logistic(record: dict) -> list[str]:
    rival, noise = record["rival"], record["logistic"]["noise"]
    t = _T.get(record["splits"] - 1, 1.96)
    lines = [
        "## Logistic regression",
        "",
        f"Test loss in nats ± standard error over {record['splits']} splits, accuracy, and",
        "CPU seconds of a fit on a busy machine. Digits and breast cancer: 70 % to fit, the",
        "rest to test, so splits share examples and errors are on the small side. Noise:",
        f"{noise['fit'][0]} examples of two classes, of whose {noise['fit'][1]} features",
        f"{record['matter']} matter, and {noise['test']:,} to test, drawn anew each time.",
        f"{RIVAL} has {rival['Cs']} values of C and {rival['cv']} folds, and",
        "chooses by log loss too. All others are `RegularizedLogisticRegression`: no prior is",
        "`width=math.inf`, one split is `validation=0.2`. With two classes a penalty per",
        "feature is one per weight, and one per class is one in all.",
        "",
        *logistic_tables(record),
        "The second table has differences of test loss, split by split. Those beyond",
        f"{t:.2f} standard errors, where chance alone would put one in twenty:",
        "",
    ]
    for name, found in record["logistic"].items():
        words: dict[str, list[str]] = {"lower": [], "higher": []}
        for method in found["rows"]:
            if method != RIVAL:
                gap, error = _mean_error(_differences(found["rows"], method))
                if abs(gap) > t * error:
                    words["lower" if gap < 0 else "higher"].append(method)
        said = [f"{word} with {'; '.join(who)}" for word, who in words.items() if who]
        lines.append(f"- {name}: {', and '.join(said) or 'none'}.")
    lines += ["", "Loss on the folds that judged, and on the test data, without a prior:", ""]
    rows = []
    for name, found in record["logistic"].items():
        row = found["rows"][NO_PRIOR]
        judged = f"{statistics.fmean(row['folds']):.3f}" if row.get("folds") else ""
        rows.append([name, judged, f"{statistics.fmean(row['loss']):.3f}"])
    return [*lines, *_table(["", "folds", "test"], rows)]


def _layer(record: dict) -> list[str]:
    seeds = record["layer"]

    def least(kind: str) -> str:
        names = [name for name, row in seeds[0].items() if kind in row]
        mean = {n: statistics.fmean(found[n][kind][0] for found in seeds) for n in names}
        best = min(mean, key=lambda name: mean[name])
        return f"{_DECAYS[best]}, {mean[best]:.3f}"

    said = []
    for name in seeds[0]:
        if "refitted" in seeds[0][name] and name != "in all":
            gaps = [
                found[name]["refitted"][0] - found["in all"]["refitted"][0] for found in seeds
            ]
            said.append("{}: {:+.4f} ± {:.4f}".format(_DECAYS[name], *_mean_error(gaps)))
    return [
        "## A network's last layer",
        "",
        "[`examples/head_decay.py`](../examples/head_decay.py): a small network learns 600",
        "digits, then its last layer gets decays that 600 others judge. Loss and accuracy on",
        "the remaining 597. Judging images tell the layer something by way of the decays, so",
        "the control is the layer fitted to all 1,200, with half of each decay, since twice as",
        "many images fit: the last column. Means ± standard errors.",
        "",
        *layer_tables(record),
        f"Least mean loss as judged: {least('judged')}; refitted to all: {least('refitted')}.",
        "Refitted, differences to one decay in all, seed by seed:",
        "",
        *(f"- {line}" for line in said),
        "",
    ]
