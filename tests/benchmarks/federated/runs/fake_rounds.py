"""A run folder with rounds that nobody trained: every number is known."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.federated.runs.folder import Folder, Plan
from benchmarks.federated.runs.run import RoundRecord
from benchmarks.federated.runs.settings import Settings

SETTINGS = Settings(clients=5, count=2, rounds=4, strategy="fedhyper")
# Client 0 in every round, 4 never.
SELECTED = ([0, 1], [0, 2], [0, 3], [0, 1])


def record(round_: int, **changes: Any) -> RoundRecord:
    """Return a round: accuracy 20, 40, 60, ... percent, loss 2, 1, 1/2, ..."""
    known: dict[str, Any] = {
        "round": round_,
        "loss": 4.0 / 2**round_,
        "accuracy": 20.0 * round_,
        "worst_class": 10.0 * round_,
        "train_loss": 3.0 / 2**round_,
        "alpha": 1.0 + 0.1 * round_,
        "beta": 0.01,
        "selected": SELECTED[(round_ - 1) % len(SELECTED)],
        "replied": 2,
        "probed": 0,
        "bytes_down": 2_000_000,
        "bytes_up": 1_000_000,
    }
    return RoundRecord(**{**known, **changes})


def fake_folder(
    path: Path,
    records: Iterable[RoundRecord] = tuple(map(record, (1, 2, 3, 4))),
    plan: Plan | None = None,
    finished: bool = True,
) -> Folder:
    """Write a folder as a run would have."""
    folder = Folder(path)
    folder.create(plan or Plan(SETTINGS))
    folder.begin()
    for one in records:
        folder.append(one)
    if finished:
        folder.write_model([torch.ones(3, 2), torch.ones(3), torch.ones(10, 3), torch.ones(10)])
        folder.finish(12.5)
    return folder
