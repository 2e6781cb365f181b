"""The rows of `python -m benchmarks compare`: the paper's six, and the controls that its table lacks.

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
    return [
        Configuration(
            "baseline-low",
            "Baseline-Low",
            "paper",
            low,
            note="Plain DDP at the low rate.",
        ),
        Configuration(
            "baseline-high",
            "Baseline-High",
            "paper",
            high,
            note="Plain DDP at the high rate, nine times the low one.",
        ),
        Configuration(
            "warm-init",
            "Warm-Init",
            "paper",
            high,
            warm_start=True,
            noisy=True,
            note="Noisy copies of a checkpoint on the replicas, never averaged.",
        ),
        Configuration(
            "hdet-no-auto-lr",
            "HDET without auto-LR",
            "paper",
            high,
            warm_start=True,
            noisy=True,
            note="Spread, averaging and warm start; the schedule is fixed.",
            spread=spread,
            average=True,
        ),
        Configuration(
            "hdet-no-warm-start",
            "HDET without warm start",
            "paper",
            high,
            auto_lr=True,
            note="Spread, averaging and auto-LR from random weights.",
            spread=spread,
            average=True,
        ),
        Configuration(
            "hdet-full",
            "HDET (full)",
            "paper",
            high,
            auto_lr=True,
            warm_start=True,
            noisy=True,
            note="Everything: spread, averaging, auto-LR, warm noisy start.",
            spread=spread,
            average=True,
        ),
        Configuration(
            "ddp-warm-low",
            "DDP warm, at low",
            "control",
            lr=low,
            warm_start=True,
            note="Plain DDP at the low rate from the checkpoint: what the warm start gives.",
        ),
        Configuration(
            "ddp-mid-1",
            "DDP at 2.1x low",
            "control",
            lr=low * 9 ** (1 / 3),
            note="Plain DDP a third of the way, in logarithms, from low to high.",
        ),
        Configuration(
            "ddp-mid-2",
            "DDP at 4.3x low",
            "control",
            lr=low * 9 ** (2 / 3),
            note="Plain DDP two thirds of the way from low to high.",
        ),
        Configuration(
            "averaging-only",
            "Averaging, no spread",
            "control",
            lr=high,
            average=True,
            warm_start=True,
            noisy=True,
            note="Warm noisy start and averaging at one common rate.",
        ),
        Configuration(
            "ddp-tenth",
            "DDP at low / 10",
            "control",
            lr=low / 10,
            note="Plain DDP at the rate that the next row starts from.",
        ),
        Configuration(
            "auto-lr-from-tenth",
            "Auto-LR from low / 10",
            "control",
            lr=low / 10,
            spread=spread,
            average=True,
            auto_lr=True,
            note="Can the controller climb out of a rate ten times too low?",
        ),
    ]


def checkpoint(task: Task) -> Configuration:
    """Return the run that makes the checkpoint for warm starts; not a row of the table."""
    return Configuration(
        CHECKPOINT,
        "checkpoint for warm starts",
        "checkpoint",
        task.low_lr,
        note="Plain DDP at the low rate, on the part of the stream before all other runs.",
    )
