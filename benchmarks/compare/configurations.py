"""The rows of the comparison: the paper's six, and the controls that its table lacks.

Source: HDET (arXiv 2604.24708), the ablation table: training at a low and at a nine times
higher learning rate, with and without warm noisy start, spread and auto-LR. The controls
ask what else could explain a difference: the checkpoint that warm starts begin from, the
rates between, averaging alone; and whether auto-LR finds its way from a rate that is ten
times too low.
"""

from ..tasks import Task
from .records import CHECKPOINT, Configuration


def configurations(task: Task, spread: float) -> list[Configuration]:
    """Return all rows for `task`, in the order of the table.

    Args:
        task: gives the low and the high learning rate.
        spread: alpha of the rows that have one.
    """
    low, high = task.low_lr, task.high_lr
    hdet = {"spread": spread, "average": True}
    warm = {"warm_start": True, "noisy": True}

    def paper(name: str, label: str, lr: float, **more: float) -> Configuration:
        return Configuration(name, label, "paper", lr, **more)  # pyright: ignore[reportArgumentType]

    def control(name: str, label: str, lr: float, **more: float) -> Configuration:
        return Configuration(name, label, "control", lr, **more)  # pyright: ignore[reportArgumentType]

    return [
        paper("baseline-low", "Baseline-Low", low),
        paper("baseline-high", "Baseline-High", high),
        paper("warm-init", "Warm-Init", high, **warm),
        paper("hdet-no-auto-lr", "HDET without auto-LR", high, **warm, **hdet),
        paper("hdet-no-warm-start", "HDET without warm start", high, **hdet, auto_lr=True),
        paper("hdet-full", "HDET (full)", high, **warm, **hdet, auto_lr=True),
        control("ddp-warm-low", "DDP warm, at low", low, warm_start=True),
        control("ddp-mid-1", "DDP at 2.1x low", low * 9 ** (1 / 3)),
        control("ddp-mid-2", "DDP at 4.3x low", low * 9 ** (2 / 3)),
        control("averaging-only", "Averaging, no spread", high, **warm, average=True),
        control("ddp-tenth", "DDP at low / 10", low / 10),
        control("auto-lr-from-tenth", "Auto-LR from low / 10", low / 10, **hdet, auto_lr=True),
    ]


def checkpoint(task: Task) -> Configuration:
    """Return the run that makes the checkpoint for warm starts; not a row of the table.

    It trains at the low rate, on the part of the stream before all other runs.
    """
    return Configuration(CHECKPOINT, "checkpoint for warm starts", "checkpoint", task.low_lr)
