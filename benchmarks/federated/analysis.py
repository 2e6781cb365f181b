"""What a run folder of the study shows: the tables of its report, page and README."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd

from ..core.page import RECORDS, fmt, record, table
from ..core.statistics import Estimate, estimate
from ..selection_scale.study import scale_table
from . import selections, starts
from .methods import PLAIN, RANDOM, SELECTORS, STRATEGIES
from .selections import Selections, better
from .starts import Starts, mean_against, paired, speed, worst_against
from .study import (
    COMMAND,
    MU,
    MU_SELECTORS,
    OTHER_MUS,
    TASKS,
    Folder,
    Plan,
    unfinished,
    units,
)

RECORD = RECORDS / "federated"
# What FedHyper's authors report: points of accuracy over FedAvg, and times fewer rounds.
PAPER_GAIN, PAPER_SPEED = (2.2, 3.6), (1.1, 3.0)
# Points that a start may be below FedAvg.
TOLERANCE = 0.5
MEASURES = {
    "last": "last accuracy",
    "late_deviation": "late deviation",
    "worst_class": "worst class",
    "peak": "peak",
    "final": "final",
    "drop": "drop",
}
_README = (
    starts.OURS, "fedhyper-g+cl-paper", PLAIN, "fedexp", "fedadam", "decay-sl", "delta-sgd",
    "delta-sgd-paper",
)  # fmt: skip


def runs(folder: Folder) -> pd.DataFrame:
    """Return a row for each finished run: what it was, and its numbers."""
    results, rows = folder.results(), []
    for unit in units(folder.plan()):
        if (found := results.get(unit.key)) is not None:
            s = unit.settings
            what: dict[str, Any] = {
                "experiment": unit.experiment,
                "task": s.task,
                "strategy": s.strategy,
            }
            what |= {"selector": s.selector, "mu": s.proximal_mu, "seed": s.seed}
            what |= {"local_rate": s.local_rate, "global_rate": s.global_rate}
            rows.append({**found, **what})
    return pd.DataFrame(rows)


def command(plan: Plan) -> str:
    """Return the command that makes such a folder again."""
    words = [*COMMAND.split(), "--experiments", ",".join(plan.experiments)]
    words += ["--seeds", str(plan.rate_seeds), "--selection-seeds", str(plan.selection_seeds)]
    return shlex.join([*words, "--rounds", str(plan.rounds)])


@dataclass(frozen=True)
class Goal:
    """Differences that are all to be above a threshold.

    Attributes:
        experiment: `rates` or `selection`.
        task: name of the task.
        wanted: in words.
        differences: over seeds, by what they are to.
        threshold: what they are to be above.
        spec: how they are written.
    """

    experiment: str
    task: str
    wanted: str
    differences: Mapping[str, Estimate]
    threshold: float = 0.0
    spec: str = "+.2f"

    @property
    def reached(self) -> bool:
        """Whether the means are."""
        return all(one.mean > self.threshold for one in self.differences.values())

    def clear(self, comparisons: int = 1) -> bool:
        """Whether the intervals are, so wide that so many comparisons hold together."""
        return all(
            one.mean - one.half_width(comparisons) > self.threshold
            for one in self.differences.values()
        )

    @property
    def lowest(self) -> str:
        """The lowest difference, its interval, and to whom it is."""
        name, found = min(self.differences.items(), key=lambda item: item[1].mean)
        return f"{found.interval(self.spec)}{name and f', {name}'}"


def goals(grid: Sequence[Starts], chosen: Selections) -> list[Goal]:
    """Return what is wanted of our two methods, on every task that they have run on."""
    made, (gain, most_gain), (fewer, most_fewer) = [], PAPER_GAIN, PAPER_SPEED
    for ours in (row for row in grid if row.strategy == starts.OURS):
        others = [row for row in _of(grid, ours.task) if row.strategy in starts.BASELINES]
        for wanted, differences, threshold, spec in (
            (
                f"no start more than {TOLERANCE:g} points below FedAvg",
                {at(cell): found for cell, found in ours.gains.items()},
                -TOLERANCE,
                "+.2f",
            ),
            (
                f"a mean gain above {gain:g} points; the paper has {gain:g} to {most_gain:g}",
                {"": ours.gain},
                gain,
                "+.2f",
            ),
            (
                f"over {fewer:g} times fewer rounds to FedAvg's accuracy; the paper has "
                f"{fewer:g} to {most_fewer:g}",
                {"": ours.faster_by_seed},
                fewer,
                ".2f",
            ),
            (
                "a worst start above that of every baseline",
                {row.label: worst_against(ours, row) for row in others},
                0.0,
                "+.2f",
            ),
        ):
            made.append(Goal("rates", ours.task, wanted, differences, threshold, spec))
    for task in TASKS["selection"]:
        rows = selections.at_one_mu(chosen, task)
        if (ours := rows.get(selections.OURS)) is not None:
            others = [name for name in selections.BASELINES if name in rows]
            for measure, wanted in selections.DECIDING.items():
                better_by = {SELECTORS[n][0]: better(ours, rows[n], measure) for n in others}
                made.append(Goal("selection", task, wanted, better_by))
    return made


def goals_table(goals: Sequence[Goal], experiment: str) -> pd.DataFrame:
    """Return the lowest difference of every goal of an experiment, a column for each task."""
    rows: dict[str, dict[str, str]] = {}
    for goal in (goal for goal in goals if goal.experiment == experiment):
        rows.setdefault(goal.wanted, {"wanted": goal.wanted})[goal.task] = goal.lowest
    return pd.DataFrame(rows.values())


def starts_table(rows: Sequence[Starts]) -> pd.DataFrame:
    """Return a task's strategies over the grid of starts."""
    return pd.DataFrame([_starts_row(row) for row in rows])


def _starts_row(row: Starts) -> dict[str, str]:
    plain, (faster, reached) = row.strategy == PLAIN, speed(row.ratios)
    return {
        "strategy": row.label,
        "mean accuracy": f"{row.mean:.2f}",
        "gain over FedAvg": "" if plain else row.gain.interval("+.2f"),
        "starts better, worse": "" if plain else f"{row.clear(1)}, {row.clear(-1)}",
        "lowest gain": "" if plain else f"{row.gains[row.lowest].mean:+.2f}",
        "worst start": f"{row.cells.min():.2f}",
        "at": at(row.worst),
        "rounds, times fewer": fmt(faster, ".2f"),
        "reached": fmt(reached, ".0%"),
        "diverged": f"{row.diverged.to_numpy().sum()} of {row.diverged.size}",
    }


def at(cell: tuple[float, float]) -> str:
    """Return a start in words."""
    return f"beta {cell[0]:g}, alpha {cell[1]:g}"


def against_table(rows: Sequence[Starts]) -> pd.DataFrame:
    """Return by how much FedHyper is above each baseline, and everybody's best start."""
    ours = next(row for row in rows if row.strategy == starts.OURS)
    others = [row for row in rows if row.strategy in starts.BASELINES]
    shown = [
        {
            "": row.label,
            "mean, less its": mean_against(ours, row).interval("+.2f"),
            "worst start, less its": worst_against(ours, row).interval("+.2f"),
            "its best start": f"{row.cells.max():.2f}",
        }
        for row in others
    ]
    mine = {"": ours.label, "its best start": f"{ours.cells.max():.2f}"}
    return pd.DataFrame([*shown, mine]).fillna("")


def means_table(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a task's selectors, accuracies in percent."""
    return _by_selector(rows, MEASURES, lambda row, m: f"{estimate(row[m]):.2f}")


def random_table(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a task's selectors less Random, paired by seed."""
    others = {name: row for name, row in rows.items() if name != RANDOM}
    plain = rows[RANDOM]
    return _by_selector(
        others, MEASURES, lambda row, m: paired(row[m], plain[m]).interval("+.2f")
    )


def better_table(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return by how much HeteRo-Select is better than each baseline."""
    ours = rows[selections.OURS]
    others = {name: rows[name] for name in selections.BASELINES if name in rows}
    deciding = {name: MEASURES[name] for name in selections.DECIDING}
    return _by_selector(others, deciding, lambda row, m: better(ours, row, m).interval("+.2f"))


def _by_selector(
    rows: Mapping[str, pd.DataFrame],
    measures: Mapping[str, str],
    text: Callable[[pd.DataFrame, str], str],
) -> pd.DataFrame:
    return pd.DataFrame(
        {"selector": SELECTORS[name][0], **{head: text(row, m) for m, head in measures.items()}}
        for name, row in rows.items()
    )


def traffic_table(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return what a task's selectors cost, and how evenly they select."""
    shown = []
    for name, row in rows.items():
        faster, reached = speed(row["ratio"])
        cost = {
            "selector": SELECTORS[name][0],
            "Jain's index": f"{estimate(row['fairness']):.3f}",
            "rounds, times fewer": fmt(faster, ".2f"),
            "reached": fmt(reached, ".0%"),
            "MB to clients": f"{row['bytes_down'].mean() / 1e6:.3g}",
            "MB from clients": f"{row['bytes_up'].mean() / 1e6:.3g}",
            "probes": f"{row['probed'].mean():,.0f}",
            "diverged": f"{row['diverged'].sum()} of {len(row)}",
        }
        shown.append(cost)
    return pd.DataFrame(shown)


def mu_tables(chosen: Selections) -> dict[str, pd.DataFrame]:
    """Return last accuracies under other strengths of FedProx's term, by what they are."""
    (task,), mus = TASKS["mu"], sorted({*OTHER_MUS, MU})

    def made(text: Callable[[str, float], str]) -> pd.DataFrame:
        return pd.DataFrame(
            {"selector": SELECTORS[name][0], **{f"mu = {mu:g}": text(name, mu) for mu in mus}}
            for name in MU_SELECTORS
        )

    def less(one: tuple[str, float], other: tuple[str, float]) -> str:
        pair = [chosen.get((task, mu, name)) for name, mu in (one, other)]
        if one == other or pair[0] is None or pair[1] is None:
            return "–"
        return paired(pair[0]["last"], pair[1]["last"]).interval("+.2f")

    def last(name: str, mu: float) -> str:
        row = chosen.get((task, mu, name))
        return "–" if row is None else f"{estimate(row['last']):.2f}"

    return {
        "last accuracy": made(last),
        "less without the term": made(lambda name, mu: less((name, mu), (name, 0.0))),
        "HeteRo-Select less the others": made(
            lambda name, mu: less((selections.OURS, mu), (name, mu))
        ),
    }


def _of(grid: Sequence[Starts], task: str) -> list[Starts]:
    return [row for row in grid if row.task == task]


def tables(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return all tables that a folder's runs give so far, by their titles."""
    if found.empty:
        return {}
    grid, chosen = starts.starts(found), selections.selections(found)
    made = {}
    for task in TASKS["rates"]:
        if rows := _of(grid, task):
            made[f"{task}: every start"] = starts_table(rows)
    for task in TASKS["selection"]:
        if rows := selections.at_one_mu(chosen, task):
            made[f"{task}: selection"] = means_table(rows)
            made[f"{task}: selection, less Random"] = random_table(rows)
            made[f"{task}: what selection costs"] = traffic_table(rows)
    if any(mu != MU for _, mu, _ in chosen):
        made |= {f"FedProx's term: {title}": t for title, t in mu_tables(chosen).items()}
    return made


def values() -> dict[str, Any]:
    """Return the numbers that docs/federated-benchmark.md names."""
    folder = Folder(RECORD)
    found = runs(folder)
    grid, chosen = starts.starts(found), selections.selections(found)
    wanted = goals(grid, chosen)
    made = [goal.experiment for goal in wanted for _ in goal.differences]
    by_task = {task: selections.at_one_mu(chosen, task) for task in TASKS["selection"]}
    return {
        "command": command(folder.plan()),
        "environment": folder.environment(),
        "missing": len(unfinished(folder)),
        "settings": {unit.experiment: unit.settings for unit in units(folder.plan())},
        "goals": wanted,
        "comparisons": {name: made.count(name) for name in ("rates", "selection")},
        "goals_table": goals_table,
        "grid": {
            task: {row.strategy: row for row in _of(grid, task)} for task in TASKS["rates"]
        },
        "starts_table": starts_table,
        "against_table": against_table,
        "mean_against": mean_against,
        "selectors": by_task,
        "means_table": means_table,
        "random_table": random_table,
        "better_table": better_table,
        "better": better,
        "traffic_table": traffic_table,
        "chosen": chosen,
        "paired": paired,
        "mu_tables": mu_tables(chosen),
        "scale": record("selection_scale"),
        "scale_table": scale_table,
    }


def readme() -> str:
    """Return the two tables as they stand in README.md."""
    found = runs(Folder(RECORD))
    grid = {(row.task, row.strategy): row for row in starts.starts(found)}
    chosen, ours = selections.selections(found), SELECTORS[selections.OURS][0]
    head, rows = ["25 starts"], []
    for task in TASKS["rates"]:
        head += [f"{task}: mean", "worst start"]
    for name in _README:
        cells = [grid[task, name] for task in TASKS["rates"]]
        numbers = [(f"{cell.mean:.1f}", f"{cell.cells.min():.1f}") for cell in cells]
        rows.append([STRATEGIES[name][0], *chain(*numbers)])
    first = table(pd.DataFrame(rows, columns=head), STRATEGIES[starts.OURS][0])
    head, rows = ["selector"], []
    for task in TASKS["selection"]:
        head += [f"{task}: less Random", "late deviation"]
    for name, (label, _) in SELECTORS.items():
        cells = [label]
        for task in TASKS["selection"]:
            mine, plain = chosen[task, MU, name], chosen[task, MU, RANDOM]
            less = paired(mine["last"], plain["last"]).interval("+.2f")
            cells += ["" if name == RANDOM else less, f"{mine['late_deviation'].mean():.2f}"]
        rows.append(cells)
    return f"{first}\n\n{table(pd.DataFrame(rows, columns=head), ours)}"
