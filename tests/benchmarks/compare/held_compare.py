"""The command `compare`, whose ranks stop for good at a step of one configuration.

    HELD_AT=warm-init:13 HELD=FOLDER python -m tests.benchmarks.compare.held_compare compare ...

Each rank that has stopped makes a file of its number in the folder.
"""

import os
import signal
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from benchmarks.__main__ import main
from benchmarks.compare import command
from benchmarks.compare.records import Settings
from benchmarks.compare.run_log import RunLog
from benchmarks.compare.study import run_all


def held(path: str, settings: Settings) -> None:
    """Do the runs as far as that step."""
    name, _, last = os.environ["HELD_AT"].partition(":")
    take_note = RunLog.step

    def hold(
        self: RunLog, step: int, loss: Tensor, metrics: dict[str, Any], seconds: float
    ) -> None:
        take_note(self, step, loss, metrics, seconds)
        if self._path.parts[-3] == name and step == int(last):
            Path(os.environ["HELD"], str(dist.get_rank())).touch()
            while True:
                signal.pause()

    RunLog.step = hold
    run_all(path, settings)


if __name__ == "__main__":
    command.run_all = held
    main()
