"""The page stands alone, its numbers are those of the runs, the docs come from them."""

import html
import importlib.util
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console

from benchmarks.bilevel.findings import findings
from benchmarks.bilevel.page import sections
from benchmarks.bilevel.report import command, tables, write_report
from benchmarks.bilevel.units import Folder, Plan
from benchmarks.core.parts import Table
from tests.benchmarks.bilevel.made_up import folder_of

METHODS = ["maid", "maid-certified", "maid-paper", "fixed", "fixed-paper", "hoag-cubic"]
PLAN = Plan(["comparison", "prototype", "crossover"], ["quadratic", "foe"], 2, 1.0, METHODS)
PICTURES = ["accuracy-foe", "accuracy-quadratic", "loss-foe", "loss-quadratic", "ratios"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = folder_of(tmp_path_factory.mktemp("run"), PLAN)
    write_report(made)
    return made


def page_module() -> ModuleType:
    file = Path(__file__).parents[3] / "benchmarks" / "bilevel_page.py"
    spec = importlib.util.spec_from_file_location("bilevel_page", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_picture_is_drawn(folder: Folder) -> None:
    drawn = sorted((folder.path / "plots").glob("*.png"))
    assert [file.stem for file in drawn] == PICTURES
    for file in drawn:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_the_page_stands_alone(folder: Folder) -> None:
    page = (folder.path / "report.html").read_text()
    assert not re.search(r"<script|<link|src=\"(?!data:)|https?://", page)
    assert page.count("data:image/png;base64,") == page.count('alt="') == len(PICTURES)
    assert str(folder.path) not in page
    text = html.unescape(page)
    for words in (
        "certified MAID as printed",
        "made-up foe (10 hyperparameters, a cost of 3,000)",
        "a loss of 50 at the start",
        "20.10 of the noisy images",
        "Means over 2 seeds; ± is",
        "2 of 6",
        command(PLAN),
    ):
        assert words in text, words
    assert "has no result yet" not in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_the_summary_is_strict_json(folder: Folder) -> None:
    text = (folder.path / "summary.json").read_text()
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["missing"] == 0
    assert found["command"] == command(PLAN)
    assert {row["task"] for row in found["rows"]} == {"quadratic", "foe"}
    assert len(found["prototypes"]) == 2


def test_the_command_makes_the_run_again() -> None:
    assert command(PLAN) == (
        "python -m benchmarks bilevel --experiments comparison,prototype,crossover "
        "--tasks quadratic,foe --seeds 2 --scale 1"
    )
    assert command(Plan(["prototype"], scale=0.1)) == (
        "python -m benchmarks bilevel --experiments prototype --seeds 3 --scale 0.1"
    )


def test_the_tables_fit_a_terminal(folder: Folder) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    for one in tables(findings(folder)):
        console.print(one)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert re.search(r"MAID +1\.050 +1\.050 +1\.054 +0\.40", text)


def test_what_holds_and_what_does_not_is_said(folder: Folder) -> None:
    shown = {section.title: section for section in sections(findings(folder))}
    wanted = shown["Wanted and reached"].parts
    assert str(wanted[0]).startswith("Of 12 goals 9 are reached by the means over seeds")
    assert str(wanted[1]).startswith(
        "Missed: a loss at or below every rival's from eps0 = 1e-3"
    )
    assert str(wanted[1]).count(";") == 2
    best = shown["The best fixed accuracy, picked in hindsight"].parts
    assert "foe: MAID is lower from 0 of 3 starts" in str(best[1])
    assert isinstance(best[2], Table)
    assert best[2].rows[0][:2] == ["quadratic", "1e-3, fixed accuracy"]
    paper = shown["Problem A at the paper's setting"].parts[1]
    assert isinstance(paper, Table)
    assert [row[:2] for row in paper.rows[:2]] == [
        ["certified MAID as printed", "1e-1"],
        ["certified MAID as printed", "1e-3"],
    ]
    crossover = shown["From which condition number on it is worth it"].parts
    assert crossover[1] == (
        "MAID as printed costs less than the fixed accuracy 1e-4 at 10, 20 and 30; as much or "
        "more at 2 and 5."
    )
    outer = crossover[5]
    assert isinstance(outer, Table)
    assert outer.rows[2] == ["fixed accuracy 1e-4", "1", "2", "3", "5", "7"]
    assert outer.rows[4] == ["MAID, Newton-CG below", *"–––––"]
    assert outer.rows[6][1:] == ["2", "5", "9", "16", "23"]
    assert list(shown)[-1] == "What this does not show"


def test_one_experiment_alone_makes_a_page(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, replace(PLAN, experiments=["prototype"]))
    assert [section.title for section in sections(findings(folder))] == [
        "Wanted and reached",
        "Problem A at the paper's setting",
        "What this does not show",
    ]
    assert write_report(folder).exists()


def test_without_a_method_from_all_starts_there_is_no_report(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, PLAN, lambda unit: None)
    with pytest.raises(ValueError, match="has no method with all of its starts yet"):
        write_report(folder)


def test_a_course_is_what_was_had_when_so_much_was_spent() -> None:
    from benchmarks.bilevel.plots import _median

    paths = [[[0, 9.0, 1.0], [10, 5.0, 0.1]], [[0, 7.0, 1.0], [20, 1.0, 0.1]]]
    found = _median(paths, np.array([1.0, 10.0, 20.0]), 1)
    assert found.tolist() == [8.0, 6.0, 3.0]


def test_the_documentation_comes_from_the_record(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = page_module()
    monkeypatch.setattr(module, "write_report", lambda folder: None)
    images = tmp_path / "images"
    images.mkdir()
    module.take(folder.path, tmp_path, images)
    shutil.copy(module.RECORDS / "bilevel_speed.json", tmp_path)
    page = module.bilevel_page(tmp_path, images)
    shown = re.findall(r"\]\(images/bilevel-(.+?)\.png\)", page)
    assert sorted(shown) == PICTURES
    assert "Unfinished" not in page
    assert "## CPU time of an outer step" in page
    assert re.search(r"\| \*\*MAID\*\* \| 1\.050 ± 0\.050 \|", page)
    assert not re.search(r"\b(nan|inf|None)\b", page)
    for line in page.splitlines():
        if line.startswith("|"):
            assert "||" not in line
