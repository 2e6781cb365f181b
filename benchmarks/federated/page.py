"""The page of the whole benchmark: what was run, what was wanted, what was found.

Report and documentation show the same sections. No number is typed here: all are those of
the findings, or of the settings of the runs.
"""

from collections.abc import Sequence

from ..core.parts import Section, Table
from .execution import LAST
from .findings import Findings
from .grid_words import grid_section
from .selection_words import mu_section, selection_section
from .verdicts import Verdict
from .words import listed

TITLE = "Federated: rates from every start, and who is asked to train"
_HEAD = ("wanted", "task", "measured", "reached", "clear", "corrected")
# What the tasks' images are, and how wide.
_DATA = {
    "digits": ("the digits of scikit-learn", 8),
    "mnist": ("5,000 images of MNIST, a fifth of them held out", 28),
    "fashion": ("Fashion-MNIST", 28),
}
_LIMITS = Section(
    "What this does not show",
    [
        "One small network on small images: nothing of convolutions, batch norm or text, and "
        "nothing of models for which a client's step is dear. All clients take the same "
        "number of steps, all answer, and rounds are counted, not seconds: nothing of slow "
        "clients, of lost replies or of compression.",
        "Means over the grid and worst cells are for those who do not know the right rates; "
        "who does has the best cells to compare. This library's defaults were tuned on "
        "other seeds of the same data, and its rivals have those of their papers: an "
        "advantage that other data need not grant.",
    ],
)


def introduction(found: Findings) -> list[str]:
    """Return the paragraphs under the title."""
    tasks = {task: s for one in found.settings.values() for task, s in one.items()}
    settings = next(iter(tasks.values()))
    return [
        f"Federated training within one process, on {settings['clients']} simulated clients. "
        f"Data: {listed(_data(task, s['pool']) for task, s in tasks.items())}. The model has "
        f"one hidden layer of {settings['hidden']} units: small data and a small model, so "
        f"that many seeds could be run. Runs of one seed share the split and the first "
        f"weights; rules and defaults were settled on other seeds than those shown here. "
        f"Accuracy is of held-out images, in percent, and the mean of the last {LAST} rounds "
        f"judges a run."
    ]


def _data(task: str, pool: int) -> str:
    words, side = _DATA[task]
    reduced = f"{side} x {side} averaged to " if pool > 1 else ""
    return f"{words} ({reduced}{side // pool} x {side // pool})"


def sections(found: Findings) -> list[Section]:
    """Return the page's sections in order; those without results are left out."""
    settings = {name: next(iter(one.values())) for name, one in found.settings.items()}
    made = [_wanted(found.verdicts)] if found.verdicts else []
    if found.rates:
        made.append(grid_section(found.rates, settings["rates"]))
    if found.selection:
        made.append(selection_section(found.selection, settings["selection"]))
    if found.mu:
        made.append(mu_section(found.mu))
    return [*made, _LIMITS]


def _wanted(verdicts: Sequence[Verdict]) -> Section:
    rows = [
        [one.wanted, one.task, one.measured]
        + ["yes" if good else "no" for good in (one.reached, one.clear, one.corrected)]
        for one in verdicts
    ]
    counts: dict[str, int] = {}
    for one in verdicts:
        counts[one.experiment] = counts.get(one.experiment, 0) + one.comparisons
    made = listed(f"{count} comparisons on {name}" for name, count in counts.items())
    met = {
        name: sum(getattr(one, name) for one in verdicts)
        for name in ("reached", "clear", "corrected")
    }
    return Section(
        "Wanted and reached",
        [
            f"Of {len(verdicts)} goals {met['reached']} are reached by the means over seeds, "
            f"{met['clear']} of them clearly, with every 95 % interval beyond what is wanted, "
            f"and {met['corrected']} with intervals so wide that all comparisons hold "
            f"together (Bonferroni's correction for {made}).",
            *_missed(verdicts),
            Table(_HEAD, rows),
        ],
    )


def _missed(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a paragraph for the goals that are missed, and for those that are not clear."""
    said = []
    for words, some in (
        ("Missed", [one for one in verdicts if not one.reached]),
        ("Reached, but not clearly", [one for one in verdicts if one.reached > one.clear]),
    ):
        if some:
            said.append(f"{words}: {'; '.join(f'{x.wanted} ({x.task})' for x in some)}.")
    return said
