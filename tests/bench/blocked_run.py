"""`hdet bench robustness` with runs that never end: each makes a file and waits.

python -m tests.bench.blocked_run FILE bench robustness ...
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from hdet.bench import commands
from hdet.bench.robustness import execution
from hdet.bench.robustness.methods import LABELS
from hdet.bench.robustness.problems import Method, Problem
from hdet.bench.robustness.units import Folder
from hdet.bench.tasks import Task
from hdet.cli import main
from tests.bench.robustness import fakes


def wait(problem: Problem, task: Task, lr: float, seed: int) -> NoReturn:
    """Say that a run is under way, and stay in it."""
    Path(os.environ["BEGUN"]).touch()
    while True:
        signal.pause()


def methods() -> dict[str, Method]:
    """Return the same for every name."""
    return dict.fromkeys(LABELS, wait)


def run_all(folder: Folder, processes: int | None) -> None:
    """Do the runs with these methods."""
    execution.run_all(folder, processes, methods, fakes.load)


if __name__ == "__main__":
    commands.load, commands.run_all = fakes.load, run_all
    sys.argv[0] = "hdet"
    main()
