"""Make docs/bilevel-benchmark.md from the record of `python -m benchmarks bilevel`, and nothing else.

    python benchmarks/bilevel_page.py FOLDER

takes a run folder into the record, with its pictures; `python benchmarks/write_docs.py` then
writes the page.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from ..core.parts import Picture, Section, Table, markdown, wrapped
from .findings import findings
from .page import TITLE, introduction, sections
from .report import write_report
from .units import Folder

RECORDS = Path(__file__).parent / "records"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
_PEERS = {
    "scipy": "SciPy's conjugate gradients, image by image",
    "batched": "all images in one batch",
}
_FILES = ("config.json", "environment.json", "results.jsonl", "summary.json")


def bilevel_page(records: Path = RECORDS, images: Path = IMAGES) -> str:
    """Return docs/bilevel-benchmark.md."""
    folder = records / "bilevel"
    versions, summary = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("environment", "summary")
    )
    found = findings(Folder(folder))
    lines = [
        f"# {TITLE}",
        "",
        "Written by `python benchmarks/write_docs.py` from `benchmarks/records/bilevel`.",
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
    for section in sections(found):
        names = [part.name for part in section.parts if isinstance(part, Picture)]
        there = {n: f"images/{_image(n)}" for n in names if (images / _image(n)).exists()}
        lines += markdown(section, there)
    speed = json.loads((records / "bilevel_speed.json").read_text())
    return "\n".join([*lines, *markdown(speed_section(speed), {})])


def speed_section(record: dict[str, Any]) -> Section:
    """Return what `benchmarks/bilevel_speed.py` measured, as a section of the page."""
    rows = []
    for name, measured in record["problems"].items():
        ours = measured["sides"]["hdet"]["ms per outer step"]
        for peer, against in measured["hdet against"].items():
            theirs = measured["sides"][peer]["ms per outer step"]
            spread = against["round by round"]
            rows.append(
                [
                    f"{name}, {_PEERS[peer]}",
                    f"{ours:.1f}",
                    f"{theirs:.1f}",
                    f"{against['outer step, ratio of medians']:.2f} "
                    f"({spread['lower']:.2f} to {spread['upper']:.2f})",
                ]
            )
    head = ["problem, and what it is compared with", "hdet, ms", "NumPy, ms", "ratio"]
    return Section(
        "CPU time of an outer step",
        [
            "The same algorithm was written once more in NumPy and SciPy, with each problem's "
            "gradient, Hessian-vector and mixed products derived by hand; both come to the "
            "same values at the same cost. Ratios above 1 are what automatic derivatives "
            "cost: a product takes a pass through autograd, which calls some tens of "
            "operations, however small they are. Medians and quartiles of "
            f"{record['rounds']} alternating rounds, one thread.",
            Table(head, rows),
            f"`{record['command']}`, torch {record['torch']}, NumPy {record['numpy']}, SciPy "
            f"{record['scipy']}.",
        ],
    )


def take(folder: Path, records: Path = RECORDS, images: Path = IMAGES) -> None:
    """Copy a run folder's numbers into the record, and its pictures beside the page."""
    write_report(Folder(folder))
    (records / "bilevel").mkdir(exist_ok=True)
    for name in _FILES:
        shutil.copyfile(folder / name, records / "bilevel" / name)
    for picture in (folder / "plots").glob("*.png"):
        shutil.copyfile(picture, images / _image(picture.stem))


def _image(name: str) -> str:
    return f"bilevel-{name}.png"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take a run folder into the record.")
    parser.add_argument("folder", type=Path)
    take(parser.parse_args().folder)
