"""The same run on Flower's simulation engine: its app is started, and its rounds are read.

A process of its own runs `app/simulate.py`, for Flower and Ray take over whatever process they
are in: loggers, signals, the environment. The rounds reach this one through `rounds.jsonl`.
The process is in a session of its own, so that Ctrl-C reaches it by way of this one alone,
and ends when this one ends, however that comes: it holds the other end of a pipe.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from ...core.failures import RunError
from ...core.ranks import ignoring_interrupts
from .flower_app import write_app
from .folder import Folder, Plan, parse
from .run import RoundRecord

# Seconds between looks at the file, and for Ray to end its processes when asked.
_LOOK, _GRACE = 0.2, 10.0
_LOG_LINES = 15
# The last line of a traceback.
_ERROR = re.compile(r"[\w.]*(Error|Exception|Exit)\b")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def require_flower() -> None:
    """Raise unless Flower and its simulation engine are installed.

    Raises:
        ValueError: naming what is missing and how to get it.
    """
    missing = [name for name in ("flwr", "ray") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--engine flower needs {' and '.join(missing)}, which is not installed: "
            f'pip install "hdet[flower]"'
        )


def on_flower(folder: Folder, plan: Plan) -> Generator[RoundRecord]:
    """Run on Flower's simulation engine; yield each round when it is over and written.

    Close the iterator to end all that it has started.

    Raises:
        RunError: if Flower failed, with the end of its log.
    """
    write_app(folder.path / "app", plan.settings)
    rounds = 0
    with _simulation(folder.path) as process:
        for record in _follow(folder.path / "rounds.jsonl", process):
            rounds += 1
            yield record
            if not record.replied:
                raise RunError(_failure(folder, f"no client replied in round {rounds}"))
    if process.returncode or rounds < plan.settings.rounds:
        what = f"it ended with code {process.returncode} after {rounds} rounds"
        raise RunError(_failure(folder, what))


@contextmanager
def _simulation(path: Path) -> Iterator[subprocess.Popen]:
    """Start the app in `path`; end it, and whatever it has started, on leaving."""
    environment = os.environ | {
        # Neither Flower nor Ray is to report a run of the user's to anybody.
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # By Ray's default of 15, clients would wait for whatever else a machine does.
        "RAY_worker_niceness": "0",
        "FLWR_HOME": str(path.resolve() / "app" / ".flwr"),
    }
    command = [sys.executable, "-u", str(Path("app", "simulate.py")), "--end-with-parent"]
    with (path / "flower.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _follow(file: Path, process: subprocess.Popen) -> Iterator[RoundRecord]:
    """Yield the rounds as they are written, until the process has ended."""
    read, ended = 0, False
    while not ended:
        # Asked first: what is written before the end is read after it.
        ended = process.poll() is not None
        if file.exists():
            with file.open() as lines:
                lines.seek(read)
                new = lines.read()
            whole = new[: new.rfind("\n") + 1]
            read += len(whole.encode())
            yield from parse(whole.splitlines(keepends=True))
        if not ended:
            time.sleep(_LOOK)


def _end(process: subprocess.Popen) -> None:
    """End the process and all of its session; a second Ctrl-C must not interrupt this."""
    with ignoring_interrupts():
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Of Ray's processes some would stay if it could not end them in order.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _failure(folder: Folder, what: str) -> str:
    """Return what Flower said of the first error, or said last, and where the rest is."""
    log = _COLOURS.sub("", (folder.path / "flower.log").read_text(errors="replace"))
    lines = log.splitlines()
    # Flower wraps an error in others: the first one is the cause.
    said = [line for line in lines if _ERROR.match(line)][:1] or lines[-_LOG_LINES:]
    return "\n".join(
        [*said, f"Flower: {what}; it has more to say in {folder.path}/flower.log."]
    )
