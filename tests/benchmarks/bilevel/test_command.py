"""`python -m benchmarks bilevel`: one command makes a folder; a user's error is one line."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.bilevel import command
from benchmarks.bilevel.study import Folder, Plan
from benchmarks.commands import app
from benchmarks.core import units as unit_runs
from benchmarks.core.failures import FolderError, MissingDataError
from tests.benchmarks.bilevel.made_up import METHODS, folder_of, of_unit

TINY = ["--experiments", "prototype", "--seeds", "1", "--scale", "0.02"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bilevel", *arguments])
    return result.exit_code, result.output


def refuse(task: str, seed: int) -> None:
    raise MissingDataError("these images are scikit-image's: pip install scikit-image.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--experiments", "rates"], "--experiments: there is no rates: choose from"),
        (["--tasks", "foe,[bold]"], "--tasks: there is no [bold]: choose from quadratic"),
        (["--tasks", " ,"], "must name some that there are, each once: choose from quadratic"),
        (["--scale", "0"], "--scale 0 must be finite and above 0: try 0.1"),
        (["--resume", "/nowhere"], "/nowhere is not a run folder of `python -m benchmarks"),
        (["--resume", "/nowhere", "--seeds", "2"], "and --seeds would"),
    ],
)
def test_an_error_of_the_users_is_one_line(options: list[str], words: str) -> None:
    code, output = run(*options)
    assert code == 2
    assert output.startswith("python -m benchmarks bilevel: ")
    assert words in output
    assert output.count("\n") == 1


def test_missing_data_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "load", refuse)
    code, output = run(*TINY, "--out", str(tmp_path / "run"))
    assert code == 2
    assert "these images are scikit-image's" in output
    assert not (tmp_path / "run").exists()


def test_a_tiny_study_stops_resumes_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes of their own take longer to start than all of these runs.
    monkeypatch.setattr(unit_runs, "pool", lambda *_: ThreadPoolExecutor(1))
    out = tmp_path / "run"
    code, output = run(*TINY, "--out", str(out))
    assert code == 0, output
    assert "Runs: 6, 6 to do." in output
    whole = Folder(out).results()
    assert all(made["judged"]["loss"] < made["start"]["loss"] for made in whole.values())
    assert all(made["cost"] <= 400 for made in whole.values())
    lines = (out / "results.jsonl").read_text().splitlines(keepends=True)
    # As if it had been ended while the third line was written.
    (out / "results.jsonl").write_text("".join(lines[:2]) + lines[2][:40])
    code, output = run("--resume", str(out), "--processes", "1")
    assert code == 0, output
    assert "Runs: 6, 4 to do." in output
    again = Folder(out).results()
    assert again.keys() == whole.keys()
    for key, made in again.items():
        assert {**made, "seconds": 0} == {**whole[key], "seconds": 0}
    assert output.splitlines()[-1] == f"Report: {out / 'report.html'}"


def test_the_report_shows_tables_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(["comparison", "prototype", "crossover"], ["tv"], 2, 1.0, METHODS)
    page = command.report(folder_of(tmp_path, plan)).read_text()
    assert page.count("data:image/png;base64,") == 1
    assert str(tmp_path) not in page
    assert "certified MAID as printed" in page
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"MAID +1\.050 +1\.050 +1\.054 +0\.40", shown)


def test_without_a_method_from_all_starts_there_is_no_report(tmp_path: Path) -> None:
    plan = Plan(["comparison"], ["tv"], 1, 1.0, METHODS)
    folder = folder_of(tmp_path, plan, lambda u: of_unit(u) if u.start > 1e-2 else None)
    with pytest.raises(FolderError, match="has no method with all of its starts yet"):
        command.report(folder)
