"""The command line: an error of the user's is one line and exit code 2."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from click.types import FloatParamType, FloatRange, IntParamType, IntRange
from typer.main import get_command
from typer.testing import CliRunner

from benchmarks.commands import app as benchmarks_app
from benchmarks.compare import command as commands
from benchmarks.compare.records import Settings
from benchmarks.core.files import append
from benchmarks.core.lock import locked
from benchmarks.core.ranks import RankError

DIGITS = ["compare", "--task", "digits", "--steps", "20", "--replicas", "2"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(benchmarks_app, list(arguments))
    return result.exit_code, result.output


def test_help() -> None:
    code, output = run("compare", "-h")
    assert code == 0
    assert "--resume" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "nosuch"], "there is no task 'nosuch'"),
        (["--only", "nosuch"], "there is no configuration nosuch"),
        (["--only", "[bold]"], "there is no configuration [bold]"),
        (["--data", "/nowhere"], "takes no data"),
        (["--task", "fashion", "--data", "/nowhere"], "/nowhere has no such file"),
        (["--replicas", "1"], "one replica leaves nothing to compare"),
        (["--resume", "/nowhere"], "--task, --steps, --replicas would change it"),
    ],
)
def test_an_error_of_the_users_is_one_line(options: list[str], words: str) -> None:
    code, output = run(*DIGITS, *options)
    assert code == 2
    assert output.startswith("python -m benchmarks compare: ")
    assert words in output
    assert output.count("\n") == 1


def test_a_folder_that_is_no_run_is_not_gone_on_with(tmp_path: Path) -> None:
    code, output = run("compare", "--resume", str(tmp_path))
    assert code == 2
    assert "is not a run folder of `python -m benchmarks compare`" in output


def test_data_that_went_missing_are_missed_before_any_rank_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "on_ranks", stop)
    run(*DIGITS, "--out", str(tmp_path))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"data": null', '"data": "/nowhere"'))
    code, output = run("compare", "--resume", str(tmp_path))
    assert code == 2
    assert "takes no data" in output


def stop(fn: object, ranks: int, path: str, settings: Settings) -> bool:
    raise KeyboardInterrupt


def fail(fn: object, ranks: int, path: str, settings: Settings) -> bool:
    raise RankError("[rank 1 of 2]\nTraceback:\nValueError: x[0] is the cause")


def test_nothing_that_is_there_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "on_ranks", stop)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for out in (tmp_path / "other", tmp_path / "other" / "thesis.txt"):
        code, output = run(*DIGITS, "--out", str(out))
        assert code == 2
        assert "is not an empty folder" in output
    run(*DIGITS, "--out", str(tmp_path / "run"))
    code, output = run(*DIGITS, "--out", str(tmp_path / "run"))
    assert code == 2
    assert f"`python -m benchmarks compare --resume {tmp_path / 'run'}`" in output


def test_ctrl_c_tells_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "on_ranks", stop)
    code, output = run(*DIGITS, "--out", str(tmp_path / "my run"))
    assert code == 130
    assert f"python -m benchmarks compare --resume '{tmp_path / 'my run'}'" in output


def test_a_rank_that_fails_is_heard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "on_ranks", fail)
    code, output = run(*DIGITS, "--out", str(tmp_path))
    assert code == 1
    lines = output.rstrip().splitlines()
    assert lines[-2] == "ValueError: x[0] is the cause"
    assert f"python -m benchmarks compare --resume {tmp_path}" in lines[-1]
    assert output.count("[rank 1 of 2]") == output.count("Traceback") == 1


def test_other_ranks_than_torchrun_has_started_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "on_ranks", stop)
    run(*DIGITS, "--out", str(tmp_path))
    monkeypatch.setattr(commands, "world_size", lambda: 3)
    code, output = run("compare", "--resume", str(tmp_path))
    assert code == 2
    assert "begun with 2 replicas, and torchrun has started 3" in output


# Every command with what it needs.
COMMANDS = {
    "compare": DIGITS,
    "robustness": ["robustness", "--problems", "digits-sgd"],
    "federated": ["federated", "--experiments", "rates"],
    "bilevel": ["bilevel", "--tasks", "quadratic"],
}


def numeric_options() -> Iterator[tuple[str, str, str]]:
    """Yield each numeric option of each command, and a value that it cannot have."""
    for name in COMMANDS:
        command: Any = get_command(benchmarks_app)
        for word in name.split():
            command = command.commands[word]
        for option in command.params:
            if isinstance(option.type, (FloatParamType, FloatRange)):
                yield from ((name, option.opts[0], value) for value in ("nan", "inf", "-inf"))
                yield name, option.opts[0], "-1"
            elif isinstance(option.type, (IntParamType, IntRange)) and option.name != "seed":
                yield from ((name, option.opts[0], value) for value in ("0", "-1", "nan"))


@pytest.mark.parametrize(("name", "option", "value"), list(numeric_options()))
def test_a_number_that_cannot_be_is_refused_by_name_before_any_work(
    tmp_path: Path, name: str, option: str, value: str
) -> None:
    out = tmp_path / "run"
    code, output = run(*COMMANDS[name], option, value, "--out", str(out))
    assert code == 2
    assert option in output
    assert "Traceback" not in output
    assert not out.exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1/0", "1e400"])
def test_a_start_that_cannot_be_is_refused_by_name(tmp_path: Path, value: str) -> None:
    out = tmp_path / "run"
    start = f"--starts={value}"
    code, output = run(*COMMANDS["robustness"], start, "--out", str(out))
    assert code == 2
    assert output.startswith(
        f"python -m benchmarks robustness: --starts '{value}' must be numbers"
    )
    assert not out.exists()


@pytest.mark.parametrize("name", ["compare", "robustness", "bilevel"])
def test_more_than_a_machine_can_hold_is_refused(name: str) -> None:
    code, output = run(*COMMANDS[name], "--seeds", "99999999999")
    assert code == 2
    assert "99999999999 is not in the range" in output


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("out", ["/dev/null/x", "/proc/x", "/dev/full", "x" * 300])
def test_a_place_that_cannot_be_written_is_one_line(name: str, out: str) -> None:
    code, output = run(*COMMANDS[name], "--out", out)
    assert code == 2, output
    assert output.startswith(f"python -m benchmarks {name}: ")
    assert "name another folder" in output or "name one that is not there" in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_in_use_is_one_line(tmp_path: Path, name: str) -> None:
    with locked(tmp_path / "run"):
        code, output = run(*COMMANDS[name], "--out", str(tmp_path / "run"))
    assert code == 2, output
    assert output == (
        f"python -m benchmarks {name}: {tmp_path / 'run'} is in use by process {os.getpid()}: "
        f"wait until that run is over, or end it.\n"
    )


def full(fn: object, ranks: int, path: str, settings: Settings) -> bool:
    Path(path, "lines.jsonl").symlink_to("/dev/full")
    append(Path(path, "lines.jsonl"), [{}])
    raise AssertionError


def test_a_disk_that_fills_up_ends_the_run_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "on_ranks", full)
    code, output = run(*DIGITS, "--out", str(tmp_path))
    assert code == 1
    *_, cause, remedy = output.splitlines()
    file = tmp_path / "lines.jsonl"
    assert cause == (
        f"{file} cannot be written (No space left on device): free some space, or name another "
        f"folder."
    )
    assert remedy == (
        f"Once the cause is gone, go on with: python -m benchmarks compare --resume {tmp_path}"
    )
