"""Make docs/bilevel-benchmark.md from the record of `hdet bench bilevel`, and nothing else.

    python benchmarks/bilevel_page.py FOLDER

takes a run folder into the record, with its pictures; `python benchmarks/write_docs.py` then
writes the page.
"""

import argparse
import json
import shutil
from pathlib import Path

from hdet.bench.bilevel_comparison.findings import findings
from hdet.bench.bilevel_comparison.page import TITLE, introduction, sections
from hdet.bench.bilevel_comparison.report import write_report
from hdet.bench.bilevel_comparison.units import Folder
from hdet.bench.federated_comparison.parts import Picture, markdown, wrapped

RECORDS = Path(__file__).parent / "records"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
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
    return "\n".join(lines)


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
