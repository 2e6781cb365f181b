"""Make docs/federated-benchmark.md from the record of `python -m benchmarks federated`, and nothing else.

    python benchmarks/federated_page.py FOLDER

takes a run folder into the record, with its pictures, and draws what selections cost;
`python benchmarks/write_docs.py` then writes the page.
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from ..core.parts import Picture, Section, Table, markdown, wrapped
from .findings import findings
from .page import TITLE, introduction, sections
from .report import write_report
from .units import Folder

RECORDS = Path(__file__).parent / "records"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
_FILES = ("config.json", "environment.json", "results.jsonl", "summary.json")


def federated_page(records: Path = RECORDS, images: Path = IMAGES) -> str:
    """Return docs/federated-benchmark.md."""
    folder = records / "federated"
    versions, summary = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("environment", "summary")
    )
    # What the runs were, and not what the code would run today.
    found = replace(findings(Folder(folder)), settings=summary["settings"])
    lines = [
        f"# {TITLE}",
        "",
        "Written by `python benchmarks/write_docs.py` from `benchmarks/records/federated`.",
        "",
    ]
    for paragraph in introduction(found):
        lines += [*wrapped(paragraph), ""]
    lines += [
        "```bash",
        summary["command"],
        "```",
        "",
        f"torch {versions['packages']['torch']}, Python {versions['python']}, "
        f"{versions['machine']}, {versions['cores']} cores.",
        "",
    ]
    if found.missing:
        lines += [f"**Unfinished: {found.missing} runs are missing.**", ""]
    scale = json.loads((records / "selection_scale.json").read_text())
    *shown, limits = sections(found)
    for section in [*shown, scale_section(scale), limits]:
        names = [part.name for part in section.parts if isinstance(part, Picture)]
        there = {n: f"images/{_image(n)}" for n in names if (images / _image(n)).exists()}
        lines += markdown(section, there)
    return "\n".join(lines)


def scale_section(record: dict) -> Section:
    """Return the section on what a selection costs."""
    runs = {(run["selector"], run["clients"]): run for run in record["runs"]}
    names, sizes = (list(dict.fromkeys(key[i] for key in runs)) for i in (0, 1))
    rows = [
        [
            name,
            *(f"{runs[name, size]['cpu_ms']:,.1f}" for size in sizes),
            f"{runs[name, sizes[-1]]['median_ms']:,.0f}",
            f"{runs[name, sizes[-1]]['first_call_ms']:,.0f}",
            f"{runs[name, sizes[-1]]['peak_mb']:,.0f}",
            f"{runs[name, sizes[-1]]['probes']:,}",
        ]
        for name in names
    ]
    head = ["selector", *(f"{size:,}" for size in sizes), "wall, ms", "first, ms"]
    head += ["peak, MB", "probed"]
    return Section(
        "What a selection costs",
        [
            f"Choosing {record['count']} of so many clients: milliseconds of the processor, "
            f"the median of {record['calls']} calls on {record['threads']} thread. Of the "
            f"last column of these, {sizes[-1]:,} clients, also the clock's time, the first "
            f"call's, which knows no client yet, the peak memory of the whole process, Python "
            f"and torch included, and how many clients are probed in a round. "
            f"{record['machine']}, under a load of {record['load_average']:.1f}; torch "
            f"{record['torch']}; made by `{record['command']}`.",
            Table(head, rows),
            Picture("selection-scale", "Milliseconds of a selection by number of clients"),
        ],
    )


def take(folder: Path, records: Path = RECORDS, images: Path = IMAGES) -> None:
    """Copy a run folder's numbers into the record, and its pictures beside the page."""
    # Matplotlib is slow to import, and writing the page needs none of it.
    from ..selection_scale.figure import draw

    write_report(Folder(folder))
    (records / "federated").mkdir(exist_ok=True)
    for name in _FILES:
        shutil.copyfile(folder / name, records / "federated" / name)
    for picture in (folder / "plots").glob("*.png"):
        shutil.copyfile(picture, images / _image(picture.stem))
    scale = json.loads((records / "selection_scale.json").read_text())
    draw(scale, images / _image("selection-scale"))


def _image(name: str) -> str:
    return f"federated-{name}.png"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take a run folder into the record.")
    parser.add_argument("folder", type=Path)
    take(parser.parse_args().folder)
