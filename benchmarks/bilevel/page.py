"""The page of the whole benchmark: what was run, what was wanted, what was found.

Report and documentation show the same sections. No number is typed here: all are those of
the findings, or of the constants that the runs use.
"""

from collections.abc import Sequence

from ..core.parts import Picture, Section, Table
from ..federated.words import listed
from .crossover_words import crossover_section
from .findings import Findings
from .rows import Hindsight, Row
from .task_words import task_section
from .units import EXPLAINED, LABELS, OURS, STARTS
from .verdicts import Verdict
from .words import count, loss, power, ratio_with_error, times

TITLE = "Bilevel: MAID from every first accuracy, beside its rivals at equal cost"
_LIMITS = Section(
    "What this does not show",
    [
        "Four problems that run in seconds: nothing of large networks, of lower levels that "
        "are not strongly convex, or of stochastic gradients. Cost counts products, not "
        "seconds; where the upper level or the line search is dear, the clock says otherwise.",
        "MAID's defaults were settled on problems of these kinds, and its rivals have the "
        "constants of their papers. All methods share one solver of the lower level, one of "
        "the linear system, and warm starts for both, so that they differ in accuracies and "
        "steps alone.",
    ],
)


def introduction(found: Findings) -> list[str]:
    """Return the paragraphs under the title."""
    shown = {row.method: None for row in found.rows}
    tasks = "; ".join(
        f"{name}, {task['title']} ({task['parameters']:,} hyperparameters, a cost of "
        f"{task['budget']:,})"
        for name, task in found.tasks.items()
    )
    return [
        "Hyperparameters are learned by gradients through a lower level that is solved "
        "inexactly. How exactly is the question: too loosely, and no step is certain to go "
        "down; too tightly, and the cost is spent before much was learned. Every method "
        f"starts from a first accuracy eps0 of {listed(power(start) for start in STARTS)}, "
        f"and all have the same cost: lower gradients, Hessian-vector and mixed products "
        f"together. Where a run stands when that is spent, or when it stops by itself, is "
        f"judged with the lower level solved exactly; this judging costs it nothing.",
        *([f"Tasks: {tasks}."] if tasks else []),
        *([f"Methods: {'; '.join(map(_explained, shown))}."] if shown else []),
    ]


def _explained(method: str) -> str:
    label, words = LABELS.get(method, method), EXPLAINED.get(method)
    return f"{label}, {words}" if words else label


def sections(found: Findings) -> list[Section]:
    """Return the page's sections in order; those without results are left out."""
    made = [_wanted(found.verdicts)] if found.verdicts else []
    if found.rows:
        made.append(_ratios(found.rows))
    if found.hindsight:
        made.append(_hindsight(found))
    for name, task in found.tasks.items():
        mine = [row for row in found.rows if row.task == name]
        if mine:
            made.append(task_section(name, task, mine))
    if found.prototypes:
        made.append(_prototypes(found.prototypes))
    if found.crossover:
        made.append(crossover_section(found.crossover))
    return [*made, _LIMITS]


def _wanted(verdicts: Sequence[Verdict]) -> Section:
    table = [
        [one.wanted, one.task, one.measured, *map(_yes, (one.reached, one.clear))]
        for one in verdicts
    ]
    reached = [one for one in verdicts if one.reached]
    missed = [f"{one.wanted} ({one.task})" for one in verdicts if not one.reached]
    return Section(
        "Wanted and reached",
        [
            f"Of {len(verdicts)} goals {len(reached)} are reached by the means over seeds, "
            f"{sum(one.clear for one in reached)} of them clearly, with every 95 % interval "
            f"beyond what is wanted. Ratios are geometric means over seeds, paired, with "
            f"their 95 % intervals; above 1, MAID is lower.",
            *([f"Missed: {'; '.join(missed)}."] if missed else []),
            Table(["wanted", "task", "measured", "reached", "clear"], table),
        ],
    )


def _yes(good: bool) -> str:
    return "yes" if good else "no"


def _ratios(rows: Sequence[Row]) -> Section:
    others = [row for row in rows if row.method != OURS]
    cells = [(row, cell) for row in others for cell in row.cells]
    above = sum(cell.log_ratio.sign > 0 for _, cell in cells)
    below = sum(cell.log_ratio.sign < 0 for _, cell in cells)
    return Section(
        "Losses beside MAID's",
        [
            f"The loss of each method over that of {LABELS[OURS]} from the same start, at "
            f"equal cost. Of {len(cells)} pairs of method and start, MAID's loss is clearly "
            f"lower in {above} and clearly higher in {below}: there, the 95 % interval of the "
            f"ratio does not hold 1.",
            Picture("ratios", "Loss of every method over MAID's, by task and start"),
        ],
    )


def _hindsight(found: Findings) -> Section:
    table = [_of_hindsight(one, found.rows) for one in found.hindsight]
    said = "; ".join(_standing(one) for one in found.hindsight)
    return Section(
        "The best fixed accuracy, picked in hindsight",
        [
            "A fixed accuracy that happens to suit the problem spends nothing on finding "
            "one. For each task, the lowest mean loss of all fixed accuracies that were run, "
            "and its ratio to MAID's loss from each of MAID's starts; above 1, MAID is lower "
            "although it had to find its accuracy.",
            f"{said}.",
            Table(
                [
                    "task",
                    "best fixed accuracy",
                    "its loss",
                    *(f"MAID, {power(start)}" for start in STARTS),
                    *(f"ratio, {power(start)}" for start in STARTS),
                ],
                table,
            ),
        ],
    )


def _of_hindsight(one: Hindsight, rows: Sequence[Row]) -> list[str]:
    (ours,) = (row for row in rows if (row.task, row.method) == (one.task, OURS))
    return [
        one.task,
        f"{power(one.cell.start)}, {one.row.label}",
        loss(one.cell.loss),
        *(loss(cell.loss).partition(" ±")[0] for cell in ours.cells),
        *(ratio_with_error(logs) for logs in one.log_ratios),
    ]


def _standing(one: Hindsight) -> str:
    """Return who is lower on a task, from how many starts, and by how much at most."""
    lower = sum(logs.mean > 0 for logs in one.log_ratios)
    ends = sorted(logs.mean for logs in one.log_ratios)
    return (
        f"{one.task}: MAID is lower from {lower} of {len(ends)} starts, ratios "
        f"{times(ends[0])} to {times(ends[-1])}"
    )


def _prototypes(rows: Sequence[Row]) -> Section:
    table = [
        [
            row.label,
            power(cell.start),
            loss(cell.loss),
            count(cell.failed_searches),
            count(cell.steps),
            count(cell.cost),
            f"{cell.seconds:.1f}",
        ]
        for row in rows
        for cell in row.cells
    ]
    head = ["method", "eps0 = delta0", "loss", "failed searches", "outer steps", "cost"]
    return Section(
        "Problem A at the paper's setting",
        [
            f"The quadratic problem with eps0 = delta0, a first step of 0.01 and accuracies "
            f"relaxed by 1.25, as in the paper; MAID's algorithm as printed, with its test on "
            f"the hypergradient's error and without. Means over {_seeds(rows[0])}.",
            Table([*head, "seconds"], table),
        ],
    )


def _seeds(row: Row) -> str:
    return f"{len(row.seeds)} seed{'s' if len(row.seeds) > 1 else ''}"
