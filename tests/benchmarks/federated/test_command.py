"""`python -m benchmarks federated`: one command makes a folder; an error of the user's is one line."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from benchmarks.core.failures import MissingDataError
from benchmarks.core.pool import WorkerError
from benchmarks.federated import command
from benchmarks.federated.units import Folder, Plan, Unit
from hdet import commands
from tests.benchmarks.federated.made_up import of_unit

TINY = ["--experiments", "selection", "--selection-seeds", "2", "--rounds", "2"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands.app, ["bench", "federated", *arguments])
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all data for there, and leave the pictures out, which take seconds."""
    monkeypatch.setattr(command, "load", lambda *source: None)
    monkeypatch.setattr(command, "write_report", lambda folder: folder.path / "report.html")


def made_up(folder: Folder, todo: Sequence[Unit], *_: object) -> None:
    for unit in todo:
        folder.append(unit, of_unit(unit))


def stop_after_three(folder: Folder, todo: Sequence[Unit], *_: object) -> None:
    for unit in todo[:3]:
        folder.append(unit, of_unit(unit))
    raise KeyboardInterrupt


def fail(*_: object) -> None:
    raise WorkerError("rates/digits/fedavg\nTraceback:\nValueError: x[0] is the cause")


def refuse(*source: object) -> None:
    raise MissingDataError("`mnist` needs mnist_5k.csv.gz. To get it: ...")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--experiments", "rates,[bold]"], "--experiments: there is no [bold]: choose from"),
        (["--experiments", " ,"], "--experiments names none: choose from rates, selection, mu"),
        (
            ["--resume", "/nowhere"],
            "/nowhere is not a run folder of `python -m benchmarks federated`",
        ),
        (["--resume", "/nowhere", "--selection-seeds", "2"], "and --selection-seeds would"),
    ],
)
def test_an_error_of_the_users_is_one_line(options: list[str], words: str) -> None:
    code, output = run(*options)
    assert code == 2
    assert output.startswith("python -m benchmarks federated: ")
    assert words in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("options", [["--rounds", "1"], ["--seeds", "0"]])
def test_numbers_out_of_range_are_refused(options: list[str]) -> None:
    assert run(*options)[0] == 2


def test_missing_data_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "load", refuse)
    code, output = run(*TINY, "--out", str(tmp_path / "run"))
    assert code == 2
    assert "needs mnist_5k.csv.gz" in output
    assert not (tmp_path / "run").exists()


def test_only_the_data_of_the_experiments_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(command, "load", lambda *source: asked.append(source))
    monkeypatch.setattr(command, "do_runs", made_up)
    assert run(*TINY, "--out", str(tmp_path))[0] == 0
    assert asked == [("mnist", None, 2), ("fashion", None, 2)]


def test_the_command_stops_resumes_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my run"
    monkeypatch.setattr(command, "do_runs", stop_after_three)
    code, output = run(*TINY, "--out", str(out))
    assert code == 130
    assert f"python -m benchmarks federated --resume '{out}'" in output
    code, output = run(*TINY, "--out", str(out))
    assert code == 2
    assert "holds a run already" in output
    monkeypatch.setattr(command, "do_runs", made_up)
    code, output = run("--resume", str(out), "--processes", "1")
    assert code == 0, output
    assert "Runs: 28, 25 to do." in output
    assert "HeteRo-Select" in output
    assert "mnist: a lower late standard deviation than every rival: yes" in output
    assert output.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert Folder(out).plan() == Plan(["selection"], 3, 2, 2)


def test_a_run_that_fails_is_heard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "do_runs", fail)
    code, output = run(*TINY, "--out", str(tmp_path))
    assert code == 1
    assert output.count("ValueError: x[0] is the cause") == 1
    assert f"go on with: python -m benchmarks federated --resume {tmp_path}" in output


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    code, output = run(*TINY, "--out", str(tmp_path))
    assert code == 2
    assert "is not an empty folder" in output
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_experiments_are_run_in_their_order_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "do_runs", made_up)
    out = tmp_path / "run"
    code, output = run("--experiments", "mu, selection,mu", *TINY[2:], "--out", str(out))
    assert code == 0, output
    asked = json.loads((out / "config.json").read_text())["experiments"]
    assert asked == ["selection", "mu"]
