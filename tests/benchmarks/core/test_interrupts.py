"""Ctrl-C ends a command with one line, whatever it is doing, and leaves no process."""

import os
import signal
import subprocess
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.interrupted import signalled, started, wait_for

# Packages catch what they do not expect while they are imported, to go on without a part.
CATCHING = """
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
    """
WAITING = """
    while True:
        pass
    """


def blocking(folder: Path, module: str, code: str) -> Path:
    """Put a package in place that is never imported to its end; return the file it makes."""
    begun = folder / "begun"
    (folder / module).mkdir()
    head = f"from pathlib import Path\nPath({str(begun)!r}).touch()\n"
    (folder / module / "__init__.py").write_text(head + textwrap.dedent(code))
    return begun


def command(folder: Path, *options: str) -> list[str]:
    """Return a command that looks for its packages in a folder first."""
    run = "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    run += "from benchmarks.__main__ import main; main()"
    return ["-c", run, str(folder), *options]


@pytest.mark.parametrize("module", ["torch", "typer"])
def test_in_the_first_second_while_a_package_is_imported(tmp_path: Path, module: str) -> None:
    begun = blocking(tmp_path, module, CATCHING)
    with started(*command(tmp_path, "robustness")) as process:
        wait_for(begun, process)
        output = signalled(process, signal.SIGINT)
    assert (process.returncode, output) == (130, "\nStopped.\n")


def test_while_the_report_is_made(tmp_path: Path) -> None:
    begun, out = blocking(tmp_path, "matplotlib", WAITING), tmp_path / "run"
    options = ["--task", "digits", "--steps", "10", "--replicas", "2", "--seeds", "1"]
    options += ["--only", "baseline-low", "--out", str(out)]
    with started(*command(tmp_path, "compare", *options)) as process:
        wait_for(begun, process)
        output = signalled(process, signal.SIGINT)
    assert process.returncode == 130
    said = f"\nStopped.\nGo on with: python -m benchmarks compare --resume {out}\n"
    assert output.endswith(said)
    assert "Traceback" not in output


STARTING = """
    import sys
    from pathlib import Path

    import typer

    from benchmarks.core.commands import errors_said
    from benchmarks.core.pool import pool

    try:
        with errors_said("a study", Path("nowhere")), pool(2, "unimportable"):
            pass
    except typer.Exit as end:
        sys.exit(end.exit_code)
    """


def test_while_the_workers_are_started(tmp_path: Path) -> None:
    """What they are to import is never imported to its end."""
    begun = blocking(tmp_path, "unimportable", WAITING)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with started("-c", textwrap.dedent(STARTING), PYTHONPATH=paths) as process:
        wait_for(begun, process)
        output = signalled(process, signal.SIGINT)
    assert (process.returncode, output) == (130, "\nStopped.\n")


def workers(begun: Path, out: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start a benchmark whose runs never end, in two worker processes."""
    options = ["--problems", "teacher-sgd", "--methods", "ddp", "--processes", "2"]
    run = ["-m", "tests.benchmarks.robustness.blocked_run", "robustness", *options]
    return started(*run, "--out", str(out), BEGUN=str(begun))


def test_while_workers_are_in_their_runs(tmp_path: Path) -> None:
    begun, out = tmp_path / "begun", tmp_path / "run"
    with workers(begun, out) as process:
        wait_for(begun, process)
        output = signalled(process, signal.SIGINT)
    assert process.returncode == 130
    said = f"\nStopped.\nGo on with: python -m benchmarks robustness --resume {out}\n"
    assert output.endswith(said)
    assert "Traceback" not in output


def test_workers_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with workers(begun, tmp_path / "run") as process:
        wait_for(begun, process)
        process.kill()
        # It returns once the workers, who have the pipe too, are gone.
        assert "Traceback" not in process.communicate()[0]
