"""`python -m benchmarks bilevel`: one command makes a folder; an error of the user's is one line."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from benchmarks.bilevel import command
from benchmarks.bilevel.units import Folder, Plan, Unit, methods_of
from benchmarks.core import units as unit_runs
from benchmarks.core.failures import MissingDataError
from benchmarks.core.pool import WorkerError
from hdet import commands
from tests.benchmarks.bilevel.made_up import of_unit

TINY = ["--experiments", "comparison", "--tasks", "quadratic", "--seeds", "1"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands.app, ["bench", "bilevel", *arguments])
    return result.exit_code, result.output


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "write_report", lambda folder: folder.path / "report.html")


def made_up(folder: Folder, todo: Sequence[Unit], *_: object) -> None:
    for unit in todo:
        folder.append(unit, of_unit(unit))


def stop_after_three(folder: Folder, todo: Sequence[Unit], *_: object) -> None:
    for unit in todo[:3]:
        folder.append(unit, of_unit(unit))
    raise KeyboardInterrupt


def fail(*_: object) -> None:
    raise WorkerError("comparison/foe\nTraceback:\nValueError: x[0] is the cause")


def refuse(task: str, seed: int) -> None:
    raise MissingDataError("these images are scikit-image's: pip install hdet[bench].")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--experiments", "rates"], "--experiments: there is no rates: choose from"),
        (["--tasks", "foe,[bold]"], "--tasks: there is no [bold]: choose from quadratic"),
        (["--tasks", " ,"], "--tasks names none: choose from quadratic, logistic"),
        (["--scale", "0"], "--scale 0 must be finite and above 0: try 0.1"),
        (["--scale", "nan"], "--scale nan must be finite"),
        (
            ["--resume", "/nowhere"],
            "/nowhere is not a run folder of `python -m benchmarks bilevel`",
        ),
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


@pytest.mark.usefixtures("no_pictures")
def test_the_command_stops_resumes_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my run"
    monkeypatch.setattr(command, "do_runs", stop_after_three)
    code, output = run(*TINY, "--out", str(out))
    assert code == 130
    assert f"python -m benchmarks bilevel --resume '{out}'" in output
    code, output = run(*TINY, "--out", str(out))
    assert code == 2
    assert "holds a run already" in output
    monkeypatch.setattr(command, "do_runs", made_up)
    code, output = run("--resume", str(out), "--processes", "1")
    assert code == 0, output
    plan = Plan(["comparison"], ["quadratic"], 1)
    count = 3 * len(methods_of(plan, "quadratic"))
    assert f"Runs: {count}, {count - 3} to do." in output
    assert "HOAG cubic" in output
    assert "quadratic: a loss at or below every rival's from eps0 = 1e-3: no" in output
    assert "quadratic: no search of the certified run fails: yes" in output
    assert output.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert Folder(out).plan() == plan


@pytest.mark.usefixtures("no_pictures")
def test_a_tiny_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Processes of their own take longer to start than all of these runs.
    monkeypatch.setattr(unit_runs, "pool", lambda *_: ThreadPoolExecutor(1))
    out = tmp_path / "run"
    options = ["--experiments", "prototype", "--seeds", "1", "--scale", "0.02"]
    code, output = run(*options, "--processes", "2", "--out", str(out))
    assert code == 0, output
    results = Folder(out).results()
    assert len(results) == 6
    assert all(made["judged"]["loss"] < made["start"]["loss"] for made in results.values())
    assert all(made["cost"] <= 400 for made in results.values())


def test_a_run_that_fails_is_heard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "do_runs", fail)
    code, output = run(*TINY, "--out", str(tmp_path))
    assert code == 1
    assert output.count("ValueError: x[0] is the cause") == 1
    assert f"go on with: python -m benchmarks bilevel --resume {tmp_path}" in output


@pytest.mark.usefixtures("no_pictures")
def test_names_are_taken_in_their_order_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "do_runs", made_up)
    out = tmp_path / "run"
    code, output = run(*TINY[:3], "foe, quadratic,foe", "--out", str(out))
    assert code == 0, output
    asked = json.loads((out / "config.json").read_text())
    assert (asked["tasks"], asked["seeds"]) == (["quadratic", "foe"], 3)
