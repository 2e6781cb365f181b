"""What the page says of the grid of starts."""

from collections.abc import Sequence
from typing import Any

from ..core.parts import Picture, Section, Table
from .grid import BASELINES, CELLS, OURS, Row, gains_by_local_rate, mean_against
from .paired import LEARNED, quantile
from .units import GLOBAL_RATES, LOCAL_RATES, PLAIN, STRATEGIES
from .words import listed, mean, place, ratio, share, signed, standings

_HEAD = (
    "strategy", "mean accuracy", "gain over FedAvg", "cells better, worse",
    "lowest gain", "worst cell", "at", "rounds, times fewer", "reached", "diverged",
)  # fmt: skip


def grid_section(rows: Sequence[Row], settings: dict[str, Any]) -> Section:
    """Return the section on FedHyper and its rivals from every start."""
    parts: list[str | Table | Picture] = [_what(settings), _whose(), _how_to_read(rows)]
    for task in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == task]
        parts += [f"{task}, {_seeds(mine)}:", table(mine), *_said(mine)]
        parts += [
            Picture(f"gain-{task}", f"Gain over FedAvg from every start, {task}"),
            Picture(f"accuracy-{task}", f"Accuracy from every start, {task}"),
        ]
    parts.append(Picture("starts", "Mean over the grid and worst cell of every strategy"))
    return Section("FedHyper from every start", parts)


def table(rows: Sequence[Row]) -> Table:
    """Return a task's strategies."""
    shown = [
        [
            row.label,
            mean(row.mean),
            "" if row.strategy == PLAIN else signed(row.gain),
            "" if row.strategy == PLAIN else f"{row.clear(1)}, {row.clear(-1)}",
            "" if row.strategy == PLAIN else f"{row.lowest.gain.mean:+.2f}",
            f"{row.worst.accuracy:.2f}",
            place(row.worst),
            ratio(row.speed.reached),
            share(row.speed.share),
            f"{row.diverged} of {len(row.cells) * len(row.seeds)}",
        ]
        for row in rows
    ]
    return Table(_HEAD, shown, [i for i, row in enumerate(rows) if row.strategy == OURS])


def _what(s: dict[str, Any]) -> str:
    betas, alphas = (
        listed(f"{rate:g}" for rate in rates) for rates in (LOCAL_RATES, GLOBAL_RATES)
    )
    return (
        f"Every strategy starts from each of {len(CELLS)} pairs of rates: the clients' beta "
        f"of {betas}, and the server's alpha of {alphas}, the paper's own grid. "
        f"{s['clients']} clients, {s['count']} of them drawn in each of {s['rounds']} rounds; "
        f"labels dealt out by a Dirichlet draw of concentration {s['concentration']:g}; "
        f"{s['steps']} local steps of {s['batch']} images by plain SGD."
    )


def _whose() -> str:
    return (
        f"The paper's are the rules G, which moves the server's rate, SL, by which the server "
        f"moves the clients' rate, and CL, which moves it at every local step; rows as "
        f"printed are its equations to the letter. Of this library are the steps by the "
        f"cosine of two updates in place of their product, the cap on what one step of CL "
        f"changes, and {STRATEGIES[OURS]}, where SL only raises the clients' rate. "
        f"{STRATEGIES['fedexp']} sets the server's rate itself, so that alpha changes "
        f"nothing; {STRATEGIES['fedadam']} takes alpha as a factor on its own. "
        f"{STRATEGIES['delta-sgd']} moves each client's rate by the curvature it meets, from "
        f"beta at the start of every round; its authors start it from 0.2 on every task, which "
        f"is the row {STRATEGIES['delta-sgd-paper']}, where beta changes nothing. It takes two "
        f"gradients a step, all others one."
    )


def _how_to_read(rows: Sequence[Row]) -> str:
    seeds = min(len(row.seeds) for row in rows)
    wide = f"; of {seeds} seeds it is {quantile(seeds):.1f} standard errors to each side"
    return (
        f"Accuracy is in percent, of the last rounds' mean; ± is the standard error over "
        f"seeds, brackets the 95 % interval of differences paired by seed"
        f"{wide if seeds > 1 else ''}. Better and worse "
        f"count the cells whose interval is clear of 0; with {len(CELLS)} cells one or two "
        f"are so by chance. Rounds: FedAvg's first round at its own final accuracy over the "
        f"strategy's, from the same rates and seed; the median of those that get there, and "
        f"how many do. FedAvg sets no target where it ends below {LEARNED:g} %, near the "
        f"10 % of guessing. A run that diverged counts as one that guesses from there on."
    )


def _seeds(rows: Sequence[Row]) -> str:
    counts = sorted({len(row.seeds) for row in rows})
    numbers = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{numbers} seed{'s' * (counts[-1] > 1)}"


def _said(rows: Sequence[Row]) -> list[str]:
    """Return who is best, where ours stands to the baselines, and where its gain is."""
    ours = next((row for row in rows if row.strategy == OURS), None)
    if ours is None:
        return []
    best = max(rows, key=lambda row: row.mean.mean)
    safest = max(rows, key=lambda row: row.worst.accuracy)
    others = {row.label: row for row in rows if row.strategy in BASELINES}
    against = {label: mean_against(ours, row) for label, row in others.items()}
    points = listed(f"{label} {signed(found)}" for label, found in against.items())
    signs = {label: found.sign for label, found in against.items()}
    gains = gains_by_local_rate(ours).items()
    said = [
        f"The highest mean over the grid is {best.label}'s, {mean(best.mean)} %; the best "
        f"worst cell {safest.label}'s, {safest.worst.accuracy:.2f} %.",
        f"By the mean over the grid {ours.label} is "
        f"{standings(signs, 'clearly above', 'clearly below')}. Less that of {points}.",
        f"Its mean gain over {STRATEGIES[PLAIN]} is "
        + listed(f"{gain:+.2f} from beta {beta:g}" for beta, gain in gains)
        + ".",
    ]
    ends = listed(f"{row.label} {row.best.accuracy:.2f} %" for row in [ours, *others.values()])
    said.append(f"Best cells, each strategy's own: {ends}.")
    if lost := [row for row in rows if row.diverged]:
        names = listed(f"{row.label} ({row.diverged})" for row in lost)
        said.append(f"Runs that diverged: {names}.")
    return [" ".join(said)]
