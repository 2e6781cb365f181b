"""What the page says of the crossover: steps and cost by condition number."""

from collections.abc import Mapping, Sequence

from ..core.parts import Section, Table
from ..federated.words import listed
from .crossover import METHODS, PUBLISHED
from .rows import Run

# The rival that all others are compared with.
_FIXED = "fixed"
_MEASURES = {
    "outer": "outer steps",
    "descent": "iterations of gradient descent in the lower level",
    "cost": "lower gradients, Hessian-vector and mixed products",
}


def crossover_section(runs: Mapping[tuple[int, str], Run]) -> Section:
    """Return the section; `runs` are by condition number and method."""
    conditions = sorted({condition for condition, _ in runs})
    methods = [name for name in METHODS if any(name == method for _, method in runs)]
    tables: list[str | Table] = []
    for measure, words in _MEASURES.items():
        rows = [_row(runs, conditions, name, measure) for name in methods]
        if measure == "outer":
            rows += [
                [f"published: {METHODS[name]}", *map(str, PUBLISHED[name])]
                for name in PUBLISHED
                if name in methods and len(conditions) == len(PUBLISHED[name])
            ]
        head = ["method", *(f"condition {condition}" for condition in conditions)]
        tables += [f"{words[0].upper()}{words[1:]}:", Table(head, rows)]
    return Section(
        "From which condition number on it is worth it",
        [
            "Quadratic levels of given condition numbers, gradient descent in the lower level "
            "but where said, until f is within half a percent of its minimum. Solving costs "
            "little where the condition number is small, and there a fixed accuracy has "
            "nothing to lose. A dash is where a method did not get there.",
            *filter(None, [_standing(runs, conditions, name) for name in methods]),
            *tables,
        ],
    )


def _row(
    runs: Mapping[tuple[int, str], Run], conditions: Sequence[int], method: str, measure: str
) -> list[str]:
    return [
        METHODS[method],
        *(_text(runs.get((condition, method)), measure) for condition in conditions),
    ]


def _text(run: Run | None, measure: str) -> str:
    return f"{run[measure]:,}" if run is not None and run["reached"] else "–"


def _standing(
    runs: Mapping[tuple[int, str], Run], conditions: Sequence[int], method: str
) -> str:
    """Return at which condition numbers a method costs less than the fixed accuracy."""
    if method == _FIXED:
        return ""
    both = [c for c in conditions if {(c, method), (c, _FIXED)} <= runs.keys()]
    reached = [c for c in both if runs[c, method]["reached"] and runs[c, _FIXED]["reached"]]
    less = [c for c in reached if runs[c, method]["cost"] < runs[c, _FIXED]["cost"]]
    more = [c for c in reached if c not in less]
    said = []
    if less:
        said.append(f"less than the {METHODS[_FIXED]} at {listed(map(str, less))}")
    if more:
        said.append(f"as much or more at {listed(map(str, more))}")
    return f"{METHODS[method]} costs {'; '.join(said)}." if said else ""
