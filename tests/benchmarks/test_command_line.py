"""The command line: an error of the user's is one line and exit code 2."""

import os
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

# Every command that makes a run folder, with what it needs.
DIGITS = ["compare", "--task", "digits", "--steps", "20", "--replicas", "2"]
COMMANDS = {
    "compare": DIGITS,
    "robustness": ["robustness", "--problems", "teacher-sgd"],
    "federated": ["federated", "--experiments", "rates"],
    "bilevel": ["bilevel", "--tasks", "quadratic"],
}


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(benchmarks_app, list(arguments))
    return result.exit_code, result.output


def refused(name: str, *options: str) -> str:
    """Return what a command says to options that it refuses, in one line."""
    code, output = run(*COMMANDS[name], *options)
    assert code == 2, output
    assert output.startswith(f"python -m benchmarks {name}: ")
    assert output.count("\n") == 1
    return output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "nosuch"], "there is no task 'nosuch'"),
        (["--only", "[bold]"], "--only: there is no [bold]: choose from baseline-low"),
        (["--data", "/nowhere"], "takes no data"),
        (["--task", "fashion", "--data", "/nowhere"], "/nowhere has no such file"),
        (["--replicas", "1"], "one replica leaves nothing to compare"),
        (["--resume", "/nowhere"], "--task, --steps, --replicas would change it"),
    ],
)
def test_an_error_of_the_users_is_one_line(options: list[str], words: str) -> None:
    assert words in refused("compare", *options)


def stop(fn: object, ranks: int, path: str, settings: Settings) -> bool:
    raise KeyboardInterrupt


def test_ctrl_c_tells_how_to_go_on_and_what_is_asked_again_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "on_ranks", stop)
    out = tmp_path / "my run"
    code, output = run(*DIGITS, "--out", str(out))
    assert code == 130
    assert f"python -m benchmarks compare --resume '{out}'" in output
    assert f"`python -m benchmarks compare --resume {out}`" in refused(
        "compare", "--out", str(out)
    )
    monkeypatch.setattr(commands, "world_size", lambda: 3)
    code, output = run("compare", "--resume", str(out))
    assert code == 2
    assert "begun with 2 replicas, and torchrun has started 3" in output
    # Data that went missing are missed before any rank starts.
    config = out / "config.json"
    config.write_text(config.read_text().replace('"data": null', '"data": "/nowhere"'))
    code, output = run("compare", "--resume", str(out))
    assert code == 2
    assert "takes no data" in output


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        assert "is not an empty folder" in refused("compare", "--out", str(out))


def test_a_rank_that_fails_is_heard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fn: object, ranks: int, path: str, settings: Settings) -> bool:
        raise RankError("[rank 1 of 2]\nTraceback:\nValueError: x[0] is the cause")

    monkeypatch.setattr(commands, "on_ranks", fail)
    code, output = run(*DIGITS, "--out", str(tmp_path))
    assert code == 1
    lines = output.rstrip().splitlines()
    assert lines[-2] == "ValueError: x[0] is the cause"
    assert f"python -m benchmarks compare --resume {tmp_path}" in lines[-1]
    assert output.count("[rank 1 of 2]") == output.count("Traceback") == 1


def test_a_disk_that_fills_up_ends_the_run_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fn: object, ranks: int, path: str, settings: Settings) -> bool:
        Path(path, "lines.jsonl").symlink_to("/dev/full")
        append(Path(path, "lines.jsonl"), [{}])
        raise AssertionError

    monkeypatch.setattr(commands, "on_ranks", full)
    code, output = run(*DIGITS, "--out", str(tmp_path))
    assert code == 1
    assert output.splitlines()[-2:] == [
        f"{tmp_path / 'lines.jsonl'} cannot be written (No space left on device): free some "
        f"space, or name another folder.",
        f"Once the cause is gone, go on with: python -m benchmarks compare --resume {tmp_path}",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_number_that_cannot_be_is_refused_by_name_before_any_work(
    tmp_path: Path, name: str
) -> None:
    out, app = tmp_path / "run", get_command(benchmarks_app)
    command: Any = getattr(app, "commands")[name]  # noqa: B009
    values = {
        FloatParamType: ("nan", "inf", "-inf", "-1"),
        FloatRange: ("nan", "inf", "-inf", "-1"),
        IntParamType: ("0", "-1", "nan"),
        IntRange: ("0", "-1", "nan", "99999999999"),
    }
    for option in command.params:
        for value in values.get(type(option.type), ()):
            # Steps and rounds may be many; seeds and processes fill the memory.
            if value == "99999999999" and option.type.max is None:
                continue
            code, output = run(*COMMANDS[name], option.opts[0], value, "--out", str(out))
            assert (code, out.exists()) == (2, False), (option, value, output)
            assert option.opts[0] in output
            assert "Traceback" not in output


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1/0", "1e400"])
def test_a_start_that_cannot_be_is_refused_by_name(tmp_path: Path, value: str) -> None:
    out = tmp_path / "run"
    output = refused("robustness", f"--starts={value}", "--out", str(out))
    assert f": --starts '{value}' must be numbers" in output
    assert not out.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_or_is_in_use_is_one_line(
    tmp_path: Path, name: str
) -> None:
    for out in ("/dev/null/x", "/proc/x", "/dev/full", "x" * 300):
        output = refused(name, "--out", out)
        assert "name another folder" in output or "name one that is not there" in output
    with locked(tmp_path / "run"):
        assert refused(name, "--out", str(tmp_path / "run")) == (
            f"python -m benchmarks {name}: {tmp_path / 'run'} is in use by process "
            f"{os.getpid()}: wait until that run is over, or end it.\n"
        )
