"""What a run folder of the study shows: the tables of its report and of its page."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from ..core.page import fmt
from ..core.records import RECORDS, record
from ..core.statistics import Estimate, estimate
from ..selection_scale.study import scale_table
from . import selections, starts
from .methods import PLAIN, RANDOM, SELECTORS, STRATEGIES
from .selections import MEASURES, Compared, Selections, better
from .starts import Grid, Starts, paired, speed, worst_against
from .study import COMMAND, MU, MU_SELECTORS, OTHER_MUS, Folder, Plan, unfinished, units

RECORD = RECORDS / "federated"
# The least that FedHyper's authors report: points over FedAvg, and times fewer rounds; and
# the points that a start may be below FedAvg.
LEAST_GAIN, LEAST_SPEED, TOLERANCE = 2.2, 1.1, 0.5
# The strategies of the page's first table: FedHyper's own parts have the report's.
_SHOWN = (
    starts.OURS, "fedhyper-g+cl-paper", PLAIN, "fedexp", "fedadam", "decay-sl", "delta-sgd",
    "delta-sgd-paper",
)  # fmt: skip


def runs(folder: Folder) -> pd.DataFrame:
    """Return a row for each finished run: what it was, and its numbers."""
    results = folder.results()
    done = [unit for unit in units(folder.plan()) if unit.key in results]
    return pd.DataFrame(
        {**results[unit.key], **asdict(unit.settings), "experiment": unit.experiment}
        for unit in done
    )


def found_in(folder: Folder) -> tuple[Grid, Selections]:
    """Return what a folder shows so far: strategies from every start, and selectors."""
    found = runs(folder)
    return (starts.starts(found), selections.selections(found)) if len(found) else ({}, {})


def command(plan: Plan) -> str:
    """Return the command that makes such a folder again."""
    words = [*COMMAND.split(), "--experiments", ",".join(plan.experiments)]
    words += ["--seeds", str(plan.rate_seeds), "--selection-seeds", str(plan.selection_seeds)]
    return shlex.join([*words, "--rounds", str(plan.rounds)])


@dataclass(frozen=True)
class Goal:
    """Differences over seeds, by what they are to, that are all to be above a threshold."""

    differences: Mapping[str, Estimate]
    threshold: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether the means are."""
        return all(one.mean > self.threshold for one in self.differences.values())

    def clear(self, comparisons: int = 1) -> bool:
        """Whether the intervals are, so wide that so many comparisons hold together."""
        lows = (one.mean - one.half_width(comparisons) for one in self.differences.values())
        return all(low > self.threshold for low in lows)

    def lowest(self, spec: str = "+.2f") -> str:
        """Return the lowest difference, its interval, and to whom it is."""
        name, found = min(self.differences.items(), key=lambda item: item[1].mean)
        return f"{found.interval(spec)}{name and f', {name}'}"


def goals(grid: Grid, compared: Compared) -> dict[str, dict[tuple[str, str], Goal]]:
    """Return what is wanted of our two methods, by experiment, name and task."""
    rates, selection = {}, {}
    for task, rows in grid.items():
        ours, others = rows[starts.OURS], [rows[name] for name in starts.BASELINES]
        gains = {at(cell): found for cell, found in ours.gains.items()}
        worst = {row.label: worst_against(ours, row) for row in others}
        rates["every start", task] = Goal(gains, -TOLERANCE)
        rates["gain", task] = Goal({"": ours.gain}, LEAST_GAIN)
        rates["rounds", task] = Goal({"": ours.faster_by_seed}, LEAST_SPEED)
        rates["worst start", task] = Goal(worst)
    for task, rows in compared.items():
        ours, others = rows[selections.OURS], selections.BASELINES
        for measure in selections.DECIDING:
            found = {SELECTORS[n][0]: better(ours, rows[n], measure) for n in others}
            selection[measure, task] = Goal(found)
    return {"rates": rates, "selection": selection}


def met(goals: Mapping[tuple[str, str], Goal]) -> dict[str, int]:
    """Return how many goals of an experiment are met, of how many, in which sense."""
    comparisons = sum(len(goal.differences) for goal in goals.values())
    return {
        "comparisons": comparisons,
        "all": len(goals),
        "reached": sum(goal.reached for goal in goals.values()),
        "clearly": sum(goal.clear() for goal in goals.values()),
        "corrected": sum(goal.clear(comparisons) for goal in goals.values()),
    }


def starts_table(rows: Mapping[str, Starts]) -> pd.DataFrame:
    """Return a task's strategies over the grid of starts."""
    return pd.DataFrame([_starts_row(row) for row in rows.values()])


def _starts_row(row: Starts) -> dict[str, str]:
    plain, (faster, reached) = row.strategy == PLAIN, speed(row.ratios)
    return {
        "strategy": row.label,
        "mean accuracy": f"{row.mean:.2f}",
        "gain over FedAvg": "" if plain else row.gain.interval("+.2f"),
        "starts better, worse": "" if plain else f"{row.clear(1)}, {row.clear(-1)}",
        "lowest gain": "" if plain else f"{row.gains[row.lowest].mean:+.2f}",
        "worst start": f"{row.worst_accuracy:.2f}",
        "at": at(row.worst),
        "rounds, times fewer": fmt(faster, ".2f"),
        "reached": fmt(reached, ".0%"),
        "diverged": f"{row.diverged.to_numpy().sum()} of {row.diverged.size}",
    }


def at(cell: tuple[float, float]) -> str:
    """Return a start in words."""
    return f"beta {cell[0]:g}, alpha {cell[1]:g}"


def rates_table(grid: Grid) -> pd.DataFrame:
    """Return mean and worst start of the strategies that the page shows, by task."""
    rows = []
    for name in _SHOWN:
        row = {"25 starts": STRATEGIES[name][0]}
        for task, by_name in grid.items():
            row[f"{task}: mean"] = f"{by_name[name].mean:.1f}"
            row[f"{task}: worst"] = f"{by_name[name].worst_accuracy:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def selectors_table(rows_of: Compared) -> pd.DataFrame:
    """Return each selector's accuracy less Random's, and its late deviation, by task."""
    rows = []
    for name, (label, _) in SELECTORS.items():
        row = {"selector": label}
        for task, by_name in rows_of.items():
            mine = by_name[name]
            less = paired(mine["last"], by_name[RANDOM]["last"]).interval("+.2f")
            row[f"{task}: over Random"] = "" if name == RANDOM else less
            row[f"{task}: deviation"] = f"{mine['late_deviation'].mean():.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def by_selector(
    rows: Mapping[str, pd.DataFrame],
    text: Callable[[pd.DataFrame, str], str],
    measures: Sequence[str] = tuple(MEASURES),
) -> pd.DataFrame:
    """Return a table with a row for each selector, a column for each measure."""
    return pd.DataFrame(
        {"selector": SELECTORS[name][0], **{MEASURES[m]: text(row, m) for m in measures}}
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
    task, mus = "mnist", sorted({*OTHER_MUS, MU})

    def made(text: Callable[[str, float], str]) -> pd.DataFrame:
        return pd.DataFrame(
            {"selector": SELECTORS[name][0], **{f"mu = {mu:g}": text(name, mu) for mu in mus}}
            for name in MU_SELECTORS
        )

    def last(name: str, mu: float) -> Any:
        return chosen.get((task, mu, name), {}).get("last", pd.Series(dtype=float))

    def less(name: str, mu: float) -> str:
        if name == selections.OURS:
            return "–"
        return paired(last(selections.OURS, mu), last(name, mu)).interval("+.2f")

    return {
        "last accuracy": made(lambda *which: f"{estimate(last(*which)):.2f}"),
        "HeteRo-Select less the others": made(less),
    }


def tables(grid: Grid, chosen: Selections) -> dict[str, pd.DataFrame]:
    """Return all tables that a folder's runs give so far, by their titles."""
    made = {f"{task}: every start": starts_table(rows) for task, rows in grid.items()}
    for task, rows in selections.compared(chosen).items():
        plain, others = rows[RANDOM], {n: row for n, row in rows.items() if n != RANDOM}
        made[f"{task}: selection"] = by_selector(rows, lambda row, m: f"{estimate(row[m]):.2f}")
        made[f"{task}: selection, less Random"] = by_selector(
            others, lambda row, m, plain=plain: paired(row[m], plain[m]).interval("+.2f")
        )
        made[f"{task}: what selection costs"] = traffic_table(rows)
    if any(mu != MU for _, mu, _ in chosen):
        made |= {f"FedProx's term: {title}": t for title, t in mu_tables(chosen).items()}
    return made


def values() -> dict[str, Any]:
    """Return the numbers that docs/results/federated.md names."""
    folder = Folder(RECORD)
    grid, chosen = found_in(folder)
    compared = selections.compared(chosen)
    wanted = goals(grid, compared)
    return {
        "command": command(folder.plan()),
        "environment": folder.environment(),
        "missing": len(unfinished(folder)),
        "settings": {unit.experiment: unit.settings for unit in units(folder.plan())},
        "seeds": {task: len(rows[RANDOM]) for task, rows in compared.items()},
        "grid": grid,
        "starts": wanted["rates"],
        "selectors": wanted["selection"],
        "met": {name: met(its) for name, its in wanted.items()},
        "above": {
            task: {
                name: paired(rows[starts.OURS].by_seed, rows[name].by_seed).sign
                for name in starts.BASELINES
            }
            for task, rows in grid.items()
        },
        "best": {
            task: [rows[name].best_accuracy for name in starts.BASELINES]
            for task, rows in grid.items()
        },
        "signs": {
            key: [found.sign for found in goal.differences.values()]
            for key, goal in wanted["selection"].items()
        },
        "less": lambda name, task: paired(
            compared[task][name]["last"], compared[task][RANDOM]["last"]
        ),
        "rates": rates_table(grid),
        "selection": selectors_table(compared),
        "tables": tables(grid, chosen),
        "scale": record("selection_scale"),
        "scale_table": scale_table(record("selection_scale")),
    }
