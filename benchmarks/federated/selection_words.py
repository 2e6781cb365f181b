"""What the page says of selectors, and of FedProx's term under them."""

from collections.abc import Sequence
from typing import Any

from ..core.parts import Picture, Section, Table
from .execution import LATE
from .runs.summary import in_bytes
from .selections import OURS, Row, better, difference
from .units import RANDOM, SELECTORS
from .verdicts import RIVALS
from .words import mean, ratio, share, signed, standings

_MEASURES = {
    "last": "last accuracy",
    "late_deviation": "late deviation",
    "worst_class": "worst class",
    "peak": "peak",
    "final": "final",
    "drop": "drop",
}
_TRAFFIC = (
    "selector", "Jain's index", "rounds, times fewer", "reached", "to clients",
    "from clients", "probes", "diverged",
)  # fmt: skip


def selection_section(rows: Sequence[Row], settings: dict[str, Any]) -> Section:
    """Return the section on who is asked to train."""
    parts: list[str | Table | Picture] = [_what(settings), _whose(), _how_to_read()]
    for task in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == task]
        seeds = max(len(row.seeds) for row in mine)
        parts += [f"{task}, {seeds} seed{'s' * (seeds > 1)}:", means(mine)]
        if others := [row for row in mine if row.selector != RANDOM]:
            parts += ["Less Random, paired by seed:", _against(others)]
        parts += [*_said(mine), traffic(mine)]
    parts += [
        Picture("differences", "Differences to Random with 95 % intervals"),
        Picture("late", "Last accuracy and late standard deviation, every seed"),
        Picture("curves", "Accuracy by round, mean over seeds"),
        Picture("bytes", "Bytes to and from the clients of a run"),
    ]
    return Section("Who is asked to train", parts)


def mu_section(rows: Sequence[Row]) -> Section:
    """Return the section on FedProx's term."""
    task, mus = rows[0].task, sorted({row.mu for row in rows})
    by_place = {(row.selector, row.mu): row for row in rows}
    names = list(dict.fromkeys(row.selector for row in rows))
    head = ["selector", *(f"mu = {mu:g}" for mu in mus)]
    parts: list[str | Table] = []
    for words, text in (
        (
            f"The same on {task} with other strengths mu of FedProx's term. Last accuracy:",
            lambda name, mu: mean(by_place[name, mu].means["last"]),
        ),
        (
            "Less the same selector's without the term, paired by seed:",
            lambda name, mu: _less(by_place[name, mu], by_place.get((name, 0.0))),
        ),
        (
            f"{SELECTORS[OURS]} less each of the others at the same mu:",
            lambda name, mu: _less(by_place.get((OURS, mu)), by_place[name, mu]),
        ),
    ):
        shown = [
            [
                SELECTORS[name],
                *(text(name, mu) if (name, mu) in by_place else "–" for mu in mus),
            ]
            for name in names
        ]
        parts += [words, Table(head, shown, _ours(names))]
    return Section("FedProx's term under selection", parts)


def means(rows: Sequence[Row]) -> Table:
    """Return a task's selectors, accuracies in percent."""
    shown = [[row.label, *(mean(row.means[name]) for name in _MEASURES)] for row in rows]
    return Table(["selector", *_MEASURES.values()], shown, _ours(r.selector for r in rows))


def traffic(rows: Sequence[Row]) -> Table:
    """Return what a task's selectors cost, and how evenly they select."""
    shown = [
        [
            row.label,
            mean(row.means["fairness"], 3),
            ratio(row.speed.reached),
            share(row.speed.share),
            in_bytes(row.means["bytes_down"].mean),
            in_bytes(row.means["bytes_up"].mean),
            f"{row.means['probed'].mean:,.0f}",
            f"{row.diverged} of {len(row.seeds)}",
        ]
        for row in rows
    ]
    return Table(_TRAFFIC, shown, _ours(row.selector for row in rows))


def _against(rows: Sequence[Row]) -> Table:
    shown = [[row.label, *(signed(row.against[name]) for name in _MEASURES)] for row in rows]
    return Table(["selector", *_MEASURES.values()], shown, _ours(r.selector for r in rows))


def _ours(names: Any) -> list[int]:
    return [i for i, name in enumerate(names) if name == OURS]


def _what(s: dict[str, Any]) -> str:
    return (
        f"{s['clients']} clients, {s['count']} chosen in each of {s['rounds']} rounds, labels "
        f"dealt out by a Dirichlet draw of concentration {s['concentration']:g}, so that most "
        f"clients have a few classes. Clients train by FedProx, mu = {s['proximal_mu']:g}: "
        f"{s['steps']} local steps of {s['batch']} images, momentum {s['momentum']:g}, a rate "
        f"of {s['local_rate']:g} that falls to {s['final_share']:g} of itself, gradients of "
        f"at most norm {s['max_norm']:g}; the server takes the mean. A probe reads at most "
        f"{s['probe']} images of a client."
    )


def _whose() -> str:
    return (
        f"{SELECTORS['hetero-select-reconstruction']} follows the paper's first version term "
        f"by term; its formulas could not be had, and are guessed in their plainest form. "
        f"{SELECTORS['hetero-select-v2']} follows the second version with its authors' "
        f"numbers. {SELECTORS[OURS]} is this library's: of those terms it keeps value, "
        f"staleness and diversity, with weights tuned on other seeds, and it "
        f"draws clients whose labels taken together are like everybody's, ranks a client by "
        f"its loss times its images, and probes nobody. It is told how many images of each "
        f"class a client has, which {SELECTORS[RANDOM]}, "
        f"{SELECTORS['power-of-choice']} and {SELECTORS['oort']} are not. Oort's system "
        f"terms hold slow clients back; rounds are counted here and not seconds, so that "
        f"they have nothing to gain."
    )


def _how_to_read() -> str:
    return (
        f"Last accuracy (mean of the last rounds), late deviation (standard deviation of the "
        f"last {LATE} rounds' accuracies; less is steadier, and a curve that still rises has "
        f"some, too) and worst class decide. Peak, final and drop, the peak less the final, "
        f"are given because papers report them: a peak of many noisy rounds flatters the "
        f"noisiest. Jain's index is 1 if all clients are asked equally often. Rounds are "
        f"those to Random's last accuracy of the same seed, as above."
    )


def _said(rows: Sequence[Row]) -> list[str]:
    """Return where ours stands to each rival by the numbers that decide."""
    by_name = {row.selector: row for row in rows}
    ours = by_name.get(OURS)
    if ours is None:
        return []
    sentences = []
    for measure, words in (
        ("last", ("more accurate than", "less accurate than")),
        ("late_deviation", ("steadier than", "less steady than")),
        ("worst_class", ("better than", "worse than")),
    ):
        signs = {
            SELECTORS[name]: better(ours, by_name[name], measure).sign
            for name in RIVALS
            if name in by_name
        }
        found = standings(signs, *words)
        sentences.append(f"By {_MEASURES[measure]}, {ours.label} is {found}.")
    return [" ".join(sentences)]


def _less(row: Row | None, other: Row | None) -> str:
    """Return a row's last accuracy less another's; a dash where there is nothing to take."""
    if row is None or other is None or row is other:
        return "–"
    return signed(difference(row, other, "last"))
