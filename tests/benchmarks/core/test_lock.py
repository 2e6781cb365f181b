"""One process at a time in a run folder, and none is left out by one that is dead."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.core.failures import FolderError
from benchmarks.core.lock import locked


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Return another process that holds the lock until its input ends."""
    code = """
        import sys
        from pathlib import Path
        from benchmarks.core.lock import locked
        with locked(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
        """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_holds_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    words = rf"{tmp_path} is in use by process {holder.pid}: wait until"
    with pytest.raises(FolderError, match=words), locked(tmp_path):
        pass


@pytest.mark.parametrize("how", ["in order", "killed"])
def test_a_lock_ends_with_its_process(
    tmp_path: Path, holder: subprocess.Popen[str], how: str
) -> None:
    if how == "killed":
        holder.send_signal(signal.SIGKILL)
    elif holder.stdin is not None:
        holder.stdin.close()
    assert holder.wait() == (-signal.SIGKILL if how == "killed" else 0)
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_it_can_be_held_again_and_makes_its_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "deep" / "run"):
            pass


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with (
        pytest.raises(FolderError, match=r"/dev/null/x cannot be written .* name another"),
        locked(Path("/dev/null/x")),
    ):
        pass
