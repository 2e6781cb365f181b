"""Make docs/robustness.md from the record of `python -m benchmarks robustness`, and nothing else."""

import json
from pathlib import Path

from .methods import OURS
from .regret import TOLERANCE, Cell
from .units import start_label
from .words import cell_text, percent

RECORD = Path(__file__).parent / "records" / "robustness"
IMAGES = Path(__file__).parent.parent / "docs" / "images"


def robustness_page(record: Path = RECORD) -> str:
    """Return docs/robustness.md."""
    config, versions, summary = (
        json.loads((record / f"{name}.json").read_text())
        for name in ("config", "environment", "summary")
    )
    lines = [
        "# Does a run end well wherever its learning rate starts?",
        "",
        "Written by `python benchmarks/write_docs.py` from `benchmarks/records/robustness`.",
        "",
        "Plain DDP with OneCycleLR is swept for the best peak rate of each problem, in half",
        f"decades; seeds of each: {config['seeds']}. Then every method starts from multiples",
        "of it. **Regret** is the mean held-out loss over seeds, divided by the lowest that",
        "plain DDP reaches from any rate, less 1: 0 % is as good as knowing the best rate",
        "beforehand. A start with a seed that diverged is *diverged*, and so is every mean it",
        "is part of.",
        "",
        "```bash",
        summary["command"],
        "```",
        "",
        f"torch {versions['packages']['torch']}, Python {versions['python']}, "
        f"{versions['machine']}, {versions['cores']} cores.",
        "",
    ]
    if summary["missing"]:
        lines += [f"**Unfinished: {summary['missing']} runs or more are missing.**", ""]
    lines += _wanted(summary) + _standings(summary)
    for reference in summary["references"]:
        lines += _problem(config, summary, reference)
    lines += _footnotes(summary)
    return "\n".join(lines)


def _wanted(summary: dict) -> list[str]:
    if not summary["verdicts"]:
        return []
    lines = ["## Wanted and reached", "", f"| wanted of {OURS} | measured | reached |"]
    lines.append("|---|---|---|")
    for one in summary["verdicts"]:
        reached = "yes" if one["reached"] else "**no**"
        lines.append(f"| {one['wanted']} | {one['measured']} | {reached} |")
    return [*lines, ""]


def _standings(summary: dict) -> list[str]:
    lines = ["## Over all problems and starts", "", *standings_table(summary), ""]
    lines += _image("summary", "Mean and worst regret of every method")
    return lines + _image("learning-rates", f"Where the rate of {OURS} goes from each start")


def standings_table(summary: dict) -> list[str]:
    """Return the rows of the table over all problems; the README has them too."""
    lines = [
        f"| method | mean | median | worst | worst on | at most {TOLERANCE:g} % | diverged |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in summary["standings"]:
        problem, start = one["worst_at"]
        free = one["method"] in summary["start_free"]
        place = problem if free else f"{problem} from {start_label(start)}"
        values = " | ".join(percent(one[key]) for key in ("mean", "median", "worst"))
        lines.append(
            f"| {_name(one, summary)} | {values} | {place} | {one['within']:.0%} "
            f"| {one['diverged']} of {one['runs']} |"
        )
    return lines


def _problem(config: dict, summary: dict, reference: dict) -> list[str]:
    name = reference["problem"]
    steps = next(p["steps"] for p in config["problems"] if p["name"] == name)
    starts = config["starts"]
    head = " | ".join(start_label(start) for start in starts)
    lines = [
        f"## {name}",
        "",
        f"{steps} steps; best peak rate {reference['best_lr']:.3g}, reference loss "
        f"{reference['loss']:.5g}."
        + (" The best rate is the outermost of the sweep." if reference["at_edge"] else ""),
        "",
        f"| method | {head} | mean | worst |",
        "|---|" + "---|" * (len(starts) + 2),
    ]
    for row in summary["rows"]:
        if row["problem"] != name:
            continue
        cells = {cell["start"]: _cell(cell) for cell in row["cells"]}
        shown = " | ".join(cells.get(start, "–") for start in starts)
        ends = f"{percent(row['mean'])} | {percent(row['worst'])}"
        lines.append(f"| {_name(row, summary)} | {shown} | {ends} |")
    return [*lines, "", *_image(f"regret-{name}", f"Regret over the initial rate, {name}")]


def _cell(cell: dict) -> str:
    # JSON has null where the number was infinite or, for an error, absent.
    missing = {"regret": float("inf"), "error": float("nan"), "middle": float("inf")}
    filled = {key: missing[key] if value is None else value for key, value in cell.items()}
    return cell_text(Cell(**filled))


def _footnotes(summary: dict) -> list[str]:
    lines = [
        "± is the standard error over seeds of the ratio taken seed by seed, each against the",
        "reference row's loss of that seed. The best of many rows is chosen after the fact,",
        "which makes all regrets a little too large.",
        "",
    ]
    if summary["start_free"]:
        lines += [
            "° finds its rate without looking at the initial one: one run per seed stands for",
            "all starts.",
            "",
        ]
    return lines


def _name(row: dict, summary: dict) -> str:
    name = row["label"] + ("°" if row["method"] in summary["start_free"] else "")
    return f"**{name}**" if row["method"] == OURS else name


def _image(name: str, text: str) -> list[str]:
    file = f"robustness-{name}.png"
    return [f"![{text}](images/{file})", ""] if (IMAGES / file).exists() else []
