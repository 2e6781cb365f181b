"""The main demo: a learning rate that is right, 30 times too low and 30 times too high.

A small transformer learns real text on four local processes, by plain DDP and by `Explorer`
from each of the three rates. Explorer is used as its documentation has it: the default search
under a cosine, a probe on text of its own, and a sync after each percent of the run.
"""

import sysconfig
from contextlib import closing
from pathlib import Path

from rich.console import Console

from ..report import Page, Panel, Run
from .ranks import run_ranks
from .showing import FACTORS, DemoError, beside, shown, summary

STEPS = 300
# The peak with the least held-out loss of plain DDP, all else the same, seed 0 (torch 2.13 and
# Python 3.11): 0.005 2.354, 0.007 2.305, 0.01 2.275, 0.014 2.245, 0.02 2.281.
RIGHT_RATE = 0.014
STDLIB = Path(sysconfig.get_paths()["stdlib"])
RATE, LOSS = "learning rate", "training loss"


def run(
    console: Console,
    seed: int,
    length: float = 1.0,
    ranks: int = 4,
    folder: Path | None = None,
) -> Page:
    """Run the demo, show it on the way, and return what it has shown.

    Explorer's runs leave their records in `folder`, if there is one.
    """
    if sum(file.stat().st_size for file in STDLIB.glob("*.py")) < 1_000_000:
        raise DemoError(
            f"needs the source of Python's standard library as its text, which is not in "
            f"{STDLIB}: use a Python that comes with it, as from python.org or conda."
        )
    pairs = [(method, start) for start in FACTORS for method in ("plain DDP", "Explorer")]
    runs = [Run(method, start, method == "Explorer") for method, start in pairs]
    jobs = [(RIGHT_RATE * FACTORS[one.start], one.ours) for one in runs]
    names = [f"{one.start.replace(' ', '-')}.jsonl" for one in runs]
    logs = [str(folder / name) if folder else None for name in names]
    losses, rates, steps = [0.0] * len(runs), [0.0] * len(runs), round(STEPS * length)
    title = "A small transformer learns Python's source code"
    console.print(f"{title}: starting {ranks} processes ...", highlight=False)
    messages = run_ranks("hdet.demo.training", ranks, steps, seed, jobs, logs)
    with closing(messages), shown(console, title, runs, steps, "step") as draw:
        for message in messages:
            match message:
                case number, step, rate, loss:
                    runs[number].add(step, {RATE: rate, LOSS: loss})
                    draw()
                case number, held_out, found:
                    losses[number], rates[number] = held_out, found
    best = min(loss for loss, one in zip(losses, runs, strict=True) if not one.ours)
    for one, (rate, _), loss, came_to in zip(runs, jobs, losses, rates, strict=True):
        found, against = f"{came_to:.2g}", beside(loss, best)
        one.cells = [f"{rate:.2g}", found if one.ours else "–", f"{loss:.3f}", against]
        how = f"came to {found} and ended" if one.ours else "ended"
        start = f"{one.method} from {rate:.2g} ({one.start})"
        one.sentence = f"{start} {how} at {loss:.3f}: {against} relative to the best plain run."
    return Page(
        title="A learning rate that is right, 30 times too low and 30 times too high",
        runs=runs,
        panels=[
            Panel(RATE, log=True, low=min(one.curves[RATE][0] for one in runs) / 3),
            # A rate that is far too high throws the loss out of the picture.
            Panel(LOSS, high=max(one.curves[LOSS][0] for one in runs[:2])),
        ],
        x_title="optimizer step",
        header=["run", "rate", "rate found", "held-out loss", "vs best plain run"],
        closing=summary("Held-out loss, compared with the best plain run", runs),
        setting=(
            f"A transformer of 104,000 parameters learns the source code of Python's standard "
            f"library on {ranks} processes: {steps} steps of AdamW under a cosine, seed {seed}."
            f" The right rate is plain DDP's best of a sweep; a rate found is what "
            f"`Explorer.found()` tells at the end. Losses are nats per byte, held-out ones of "
            f"files that no run has seen. It is one seed of one small model."
        ),
    )
