"""The page stands alone, its numbers are those of the runs, the docs come from them."""

import html
import importlib.util
import io
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from benchmarks.robustness.regret import rows, standings
from benchmarks.robustness.report import command, table, write_report
from benchmarks.robustness.units import Folder
from tests.benchmarks.robustness.fakes import ONE, TWO, fake_run, settings

METHODS = ("ddp", "hdet", "prodigy", "pbt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = fake_run(tmp_path_factory.mktemp("run"), *METHODS, problems=(ONE, TWO))
    write_report(made)
    return made


def page_module() -> ModuleType:
    file = Path(__file__).parents[3] / "benchmarks" / "robustness_page.py"
    spec = importlib.util.spec_from_file_location("robustness_page", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_stands_alone(folder: Folder) -> None:
    page = (folder.path / "report.html").read_text()
    assert not re.search(r"<script|<link|src=\"(?!data:)|https?://", page)
    assert page.count("data:image/png;base64,") == 4
    assert str(folder.path) not in page
    for words in ("plain DDP", "Prodigy°", "diverged, 2 of 2", "-0.03 %", "1/30"):
        assert words in html.unescape(page), words
    assert "Unfinished" not in page


def test_the_summary_is_strict_json(folder: Folder) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (folder.path / "summary.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert [one["problem"] for one in content["references"]] == ["one", "two"]
    assert content["missing"] == 0
    assert content["start_free"] == ["prodigy"]
    plain = next(one for one in content["standings"] if one["method"] == "ddp")
    assert plain["worst"] is None
    assert plain["diverged"] == 4
    assert [one["reached"] for one in content["verdicts"]] == [True] * 4


def test_the_table_fits_a_terminal(folder: Folder) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(standings(rows(folder))))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert re.search(r"plain DDP +diverged +\S+ % +diverged +14% +4/28", text)


def test_an_unfinished_run_is_called_so(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "ddp", "hdet")
    folder.file("one", "hdet", "start3", 0).unlink()
    page = write_report(folder).read_text()
    assert "Unfinished" in page
    assert json.loads((tmp_path / "summary.json").read_text())["missing"] == 1
    assert "**Unfinished: 1 runs" in page_module().robustness_page(tmp_path)


def test_without_a_start_there_is_no_report(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.create(settings("hdet"))
    with pytest.raises(ValueError, match="no start of any method"):
        write_report(folder)


def test_the_command_makes_the_run_again() -> None:
    asked = settings("ddp", "hdet")
    assert command(asked) == (
        "python -m benchmarks robustness --problems one --methods hdet,ddp --seeds 2"
    )


def test_the_documentation_has_the_numbers_of_the_record(folder: Folder) -> None:
    page = page_module().robustness_page(folder.path)
    found = {row.method: row for row in rows(folder) if row.problem == "two"}
    assert "## two" in page
    line = next(
        line for line in page.split("## two")[1].splitlines() if line.startswith("| **hdet**")
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == 10
    for shown, cell in zip(cells[1:8], found["hdet"].cells, strict=True):
        assert shown.startswith(f"{cell.regret:+.2f} ± ")
    assert "diverged, 2 of 2" in page
    assert "Prodigy°" in page
    assert "| worst regret at most 2 % | +1.18 % on one | yes |" in page
    assert not re.search(r"\bnan\b|\binf\b|None", page)


def test_what_was_not_reached_is_said(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "hdet", "ddp")
    for file in (tmp_path / "runs" / "one" / "hdet").rglob("*.json"):
        raw = json.loads(file.read_text())
        file.write_text(json.dumps({**raw, "held_out": None}))
    write_report(folder)
    page = page_module().robustness_page(tmp_path)
    assert page.count("**no**") == 4
    assert "not below plain DDP (diverged)" in page
