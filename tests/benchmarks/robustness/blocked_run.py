"""`python -m benchmarks robustness` with runs that never end: each makes a file and waits.

python -m tests.benchmarks.robustness.blocked_run robustness ...
"""

import os
import signal
from pathlib import Path
from typing import NoReturn

from benchmarks.__main__ import main
from benchmarks.robustness import command as commands
from benchmarks.robustness import study
from benchmarks.robustness.methods import LABELS
from benchmarks.robustness.problems import Method, Problem
from benchmarks.robustness.runs import Folder
from benchmarks.tasks import Task
from tests.benchmarks.robustness import fakes


def wait(problem: Problem, task: Task, lr: float, seed: int) -> NoReturn:
    """Say that a run is under way, and stay in it."""
    Path(os.environ["BEGUN"]).touch()
    while True:
        signal.pause()


def methods() -> dict[str, Method]:
    """Return the same for every name."""
    return dict.fromkeys([*LABELS, "rerun"], wait)


def run_all(folder: Folder, processes: int | None) -> None:
    """Do the runs with these methods."""
    study.run_all(folder, processes, methods, fakes.load)


if __name__ == "__main__":
    commands.load, commands.run_all = fakes.load, run_all
    main()
