"""One process at a time in a run folder, and none is left out by one that is dead."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.core.failures import FolderError
from benchmarks.core.lock import locked

HOLDING = """
    import sys
    from pathlib import Path
    from benchmarks.core.lock import locked
    with locked(Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.read()
    """


@pytest.mark.parametrize("how", ["in order", "killed"])
def test_the_second_is_told_who_holds_a_lock_which_ends_with_its_process(
    tmp_path: Path, how: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLDING), str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):
            words = rf"{tmp_path} is in use by process {holder.pid}: wait until"
            with pytest.raises(FolderError, match=words), locked(tmp_path):
                pass
        if how == "killed":
            holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert holder.returncode == (-signal.SIGKILL if how == "killed" else 0)
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_it_makes_its_folder_or_names_one_that_cannot_be(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "deep" / "run"):
            pass
    words = "/dev/null/x cannot be written .* name another"
    with pytest.raises(FolderError, match=words), locked(Path("/dev/null/x")):
        pass
