"""Commands in processes of their own, that are stopped at a moment which the test can see."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start Python with these arguments, as a terminal does: Ctrl-C reaches its whole group."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C, and its children after it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            # Whoever is left of a test that has failed.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there; the end of the process before that is an error.

    However slow the machine, the test's own time limit is what ends the waiting.
    """
    while not file.exists():
        if process.poll() is not None:
            output = process.communicate()[0]
            raise AssertionError(f"{process.args} has ended without {file}:\n{output}")
        time.sleep(0.002)


def signalled(process: subprocess.Popen[str], what: signal.Signals) -> str:
    """Send a signal to the whole group, and return the output once nobody can add to it.

    That is when all processes of the group have ended: each has the pipe from the first.
    """
    os.killpg(process.pid, what)
    return process.communicate()[0]
