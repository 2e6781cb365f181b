"""Numbers are those of the run, the page stands alone, and remedies name options."""

import html
import json
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("matplotlib")
from benchmarks.bilevel.runs.folder import Folder
from benchmarks.bilevel.runs.report import command, rows, table, write_report
from benchmarks.bilevel.runs.settings import Settings, remedy_of
from hdet.bilevel import Status
from tests.benchmarks.bilevel.runs.made_up import SETTINGS, made_up, outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made = made_up(tmp_path_factory.mktemp("run"))
    write_report(made)
    return made


def test_final_numbers_are_the_runs(folder: Folder) -> None:
    found = dict(rows(folder))
    assert found["method"] == "MAID"
    assert found["upper loss, exact"] == "20 -> 2.25"
    assert found["test loss"] == "30 -> 4.5"
    assert (found["outer steps"], found["searches that failed"]) == ("4", "3")
    assert found["cost"] == "100"
    assert [found[f"of which {name}"] for name in ("gradients", "Hessian products")] == [
        "40",
        "50",
    ]
    assert found["of which mixed products"] == "10"
    assert "PSNR" not in found
    summary = json.loads((folder.path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["after"]["loss"] == 2.25
    assert summary["outer_steps"] == 4
    assert summary["settings"]["task"] == "quadratic"


def test_the_page_stands_alone(folder: Folder) -> None:
    page = (folder.path / "report.html").read_text()
    assert not re.search(r"<script|<link|src=\"(?!data:)|https?://|url\(", page)
    assert page.count("data:image/png;base64,") == page.count('alt="') == 2
    assert str(folder.path) not in page
    text = html.unescape(page)
    for words in ("20 → 2.25", "12.5 s", "the budget is spent", command(SETTINGS)):
        assert words in text, words
    assert "Raise --budget with --resume, to go on." in text
    assert "Nothing was gained" not in page


def test_a_run_that_gained_nothing_says_so(tmp_path: Path) -> None:
    end = outcome(before={"loss": 20.0}, after={"loss": 20.0})
    page = write_report(made_up(tmp_path, [], end=end)).read_text()
    assert "Nothing was gained" in page


def test_a_run_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not complete: go on with it by"):
        write_report(made_up(tmp_path, end=None))


@pytest.mark.parametrize("status", list(Status), ids=lambda status: status.name)
def test_remedies_name_options_only(status: Status) -> None:
    reason, remedy = remedy_of(f"Stopped because {status.value}; {status.remedy}.")
    assert reason == status.value
    assert remedy
    assert "`" not in remedy
    known = {f"--{name.replace('_', '-')}" for name in vars(SETTINGS)} | {"--resume"}
    assert set(re.findall(r"--[\w-]+", remedy)) <= known


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    longest = max(Status, key=lambda status: len(status.value))
    end = outcome(message=f"Stopped because {longest.value}; {longest.remedy}.")
    settings = Settings("logistic", "maid-monotone")
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(made_up(tmp_path, settings=settings, end=end)))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    for words in ("digits, a penalty for each of 640 weights", longest.value):
        assert words in text, words


def test_the_command_makes_the_same_settings() -> None:
    said = shlex.split(command(Settings("tv", "fixed", 0.1, None, 50, certify=False, seed=3)))
    assert said[:3] == ["hdet", "bilevel", "tv"]
    assert "--no-certify" in said
    assert "--step" not in said
    assert said[said.index("--seed") + 1] == "3"
