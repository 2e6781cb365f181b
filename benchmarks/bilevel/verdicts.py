"""What is wanted of MAID, against what was measured.

Each goal is a set of comparisons, every one a mean that is to be at or above a threshold. It
is reached if all are, and clear if all 95 % intervals are beyond their thresholds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..federated.paired import Interval, differences, interval
from .rows import Cell, Row
from .units import CERTIFIED, OURS, PROTOTYPES, RIVALS
from .words import count, loss, percent, power, ratio, with_error

# Of the losses from MAID's own starts.
SPREAD = 0.01
# What a prototype of the certified test had, on another seed of problem A.
PROTOTYPE_LOSS = 24.5
# Decibels on the images that the fields of experts are learned from.
PSNR = 24.4


@dataclass(frozen=True)
class Comparison:
    """One mean and what it is to be at or above.

    Attributes:
        reached: whether the mean is.
        clear: whether the 95 % interval is above.
    """

    reached: bool
    clear: bool

    @classmethod
    def of(cls, one: Interval, threshold: float) -> "Comparison":
        """Compare a mean over seeds."""
        return cls(one.mean >= threshold, one.low > threshold)


@dataclass(frozen=True)
class Verdict:
    """A goal judged.

    Attributes:
        task: name of the task.
        wanted: in words.
        measured: in words and numbers.
        comparisons: how many it consists of.
        reached: whether all means are at or above their thresholds.
        clear: whether all 95 % intervals are above.
    """

    task: str
    wanted: str
    measured: str
    comparisons: int
    reached: bool
    clear: bool


def verdicts(found: Sequence[Row], prototypes: Sequence[Row]) -> list[Verdict]:
    """Return what became of all goals; those that nothing was run for are left out."""
    made = []
    for ours in (row for row in found if row.method == OURS):
        rivals = [row for row in found if row.task == ours.task and row.method in RIVALS]
        rivals = [row for row in rivals if row.seeds == ours.seeds]
        if rivals:
            made += [_at_or_below(ours, rivals, i) for i in range(len(ours.cells))]
        made.append(_same_from_all(ours))
        if ours.task == "foe":
            made.append(_sharp(ours))
    made += [_no_failed_search(row) for row in found if row.method == CERTIFIED]
    first, *_ = PROTOTYPES
    for row in (row for row in prototypes if row.method == first):
        made += [_low_loss(row), _no_failed_search(row, "at the paper's setting: ")]
    return made


def _verdict(
    task: str, wanted: str, measured: str, comparisons: Sequence[Comparison]
) -> Verdict:
    return Verdict(
        task,
        wanted,
        measured,
        len(comparisons),
        reached=all(one.reached for one in comparisons),
        clear=all(one.reached and one.clear for one in comparisons),
    )


def _at_or_below(ours: Row, rivals: Sequence[Row], place: int) -> Verdict:
    mine = ours.cells[place]
    theirs = {row.label: row.cells[place] for row in rivals}
    ahead = [label for label, cell in theirs.items() if cell.loss.mean < mine.loss.mean]
    parts = [f"{label} {ratio(cell.log_ratio)}" for label, cell in theirs.items()]
    return _verdict(
        ours.task,
        f"a loss at or below every rival's from eps0 = {power(mine.start)}",
        f"{len(ahead)} of {len(rivals)} have a lower mean loss; their loss over MAID's: "
        + ", ".join(parts),
        [_lower(mine, cell) for cell in theirs.values()],
    )


def _lower(ours: Cell, rival: Cell) -> Comparison:
    """Compare mean losses as they are, and intervals by the ratio: seeds differ in scale."""
    difference = differences(rival.losses, ours.losses)
    return Comparison(difference.mean >= 0, rival.log_ratio.low > 0)


def _same_from_all(ours: Row) -> Verdict:
    parts = [f"{loss(cell.loss)} from {power(cell.start)}" for cell in ours.cells]
    spread = ours.spread
    return _verdict(
        ours.task,
        f"losses from all starts within {100 * SPREAD:g} % of each other",
        f"{percent(spread)}; " + ", ".join(parts),
        [Comparison.of(_negative(spread), -SPREAD)],
    )


def _sharp(ours: Row) -> Verdict:
    parts = [
        f"{with_error(cell.judged['psnr'], 2)} from {power(cell.start)}" for cell in ours.cells
    ]
    noisy = ours.cells[0].judged["noisy_psnr"]
    return _verdict(
        ours.task,
        f"images of at least {PSNR:g} dB",
        f"{', '.join(parts)}; noisy ones have {with_error(noisy, 2)}",
        [Comparison.of(cell.judged["psnr"], PSNR) for cell in ours.cells],
    )


def _no_failed_search(row: Row, where: str = "") -> Verdict:
    parts = [f"{count(cell.failed_searches)} from {power(cell.start)}" for cell in row.cells]
    none = not any(cell.failed_searches for cell in row.cells)
    return _verdict(
        row.task,
        f"{where}no search of the certified run fails",
        f"a run has {', '.join(parts)}",
        # A count, which either is zero or not.
        [Comparison(none, none)],
    )


def _low_loss(row: Row) -> Verdict:
    parts = [f"{loss(cell.loss)} from {power(cell.start)}" for cell in row.cells]
    return _verdict(
        row.task,
        f"at the paper's setting: a loss of at most {PROTOTYPE_LOSS:g}, as a prototype had "
        f"on another seed",
        ", ".join(parts),
        [Comparison.of(_negative(cell.loss), -PROTOTYPE_LOSS) for cell in row.cells],
    )


def _negative(one: Interval) -> Interval:
    """Return an interval for what is to be small."""
    if math.isnan(one.mean):
        return interval([])
    return Interval(-one.mean, one.error, -one.high, -one.low, one.seeds)
