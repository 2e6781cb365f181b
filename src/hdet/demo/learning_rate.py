"""The main demo: a learning rate that is right, 30 times too low and 30 times too high.

A small transformer learns real text on four local processes, by plain DDP and by `Explorer`
from each of the three rates. Explorer is used as its documentation has it: the default search
under a cosine, a probe on text of its own, and a sync after each percent of the run.
"""

import sysconfig
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from ..report import Page, Panel, Run
from .ranks import run_ranks
from .showing import DemoError, beside, shown, summary

STDLIB = Path(sysconfig.get_paths()["stdlib"])
# Peak rates with the least held-out loss in a sweep of plain DDP.
RIGHT_RATES = {"cosine": 0.01, "one-cycle": 0.03}
FACTORS = {"30x too low": 1 / 30, "right": 1.0, "30x too high": 30.0}
RATE, LOSS = "learning rate", "training loss"


@dataclass(frozen=True)
class Settings:
    """One demo. All runs have the same weights, text and batches, of `batch` rows per rank."""

    steps: int = 300
    schedule: str = "cosine"
    seed: int = 0
    ranks: int = 4
    batch: int = 8

    @property
    def sync_every(self) -> int:
        """1 % of the run."""
        return max(1, self.steps // 100)


class Point(NamedTuple):
    """Where a run stands: the rate in effect, and the interval's mean training loss."""

    run: int
    step: int
    rate: float
    loss: float


class End(NamedTuple):
    """How a run ended; `found` is the peak of a schedule that ends at the same rate."""

    run: int
    held_out: float
    found: float


def run(settings: Settings, console: Console) -> Page:
    """Run the demo, show it on the way, and return what it has shown."""
    if sum(file.stat().st_size for file in STDLIB.glob("*.py")) < 1_000_000:
        raise DemoError(
            f"needs the source of Python's standard library as its text, which is not in "
            f"{STDLIB}: use a Python that comes with it, as from python.org or conda."
        )
    pairs = [(method, start) for start in FACTORS for method in ("plain DDP", "Explorer")]
    runs = [Run(method, start, method == "Explorer") for method, start in pairs]
    rates = [RIGHT_RATES[settings.schedule] * FACTORS[one.start] for one in runs]
    jobs = [(rate, one.ours) for rate, one in zip(rates, runs, strict=True)]
    ends: dict[int, End] = {}
    title = "A small transformer learns Python's source code"
    console.print(f"Starting {settings.ranks} processes ...", highlight=False)
    messages = run_ranks("hdet.demo.training", settings.ranks, settings, jobs)
    with closing(messages), shown(console, title, runs, settings.steps, "step") as draw:
        for said in messages:
            if isinstance(said, Point):
                runs[said.run].add(said.step, {RATE: said.rate, LOSS: said.loss})
                draw()
            else:
                ends[said.run] = said
    best = min(ends[number].held_out for number, one in enumerate(runs) if not one.ours)
    for number, (one, rate) in enumerate(zip(runs, rates, strict=True)):
        held_out, found = f"{ends[number].held_out:.3f}", f"{ends[number].found:.2g}"
        against = beside(ends[number].held_out, best)
        one.cells = [f"{rate:.2g}", found if one.ours else "–", held_out, against]
        how = f"found {found} and ended" if one.ours else "ended"
        one.sentence = (
            f"{one.method} from {rate:.2g} ({one.start}) {how} at {held_out}: {against}."
        )
    return _page(settings, runs)


def _page(settings: Settings, runs: list[Run]) -> Page:
    return Page(
        title="A learning rate that is right, 30 times too low and 30 times too high",
        runs=runs,
        panels=[
            Panel(RATE, log=True, low=min(one.curves[RATE][0] for one in runs)),
            # A rate that is far too high throws the loss out of the picture.
            Panel(LOSS, high=max(one.curves[LOSS][0] for one in runs[:2])),
        ],
        x_title="optimizer step",
        header=["run", "rate at start", "rate found", "held-out loss", "beside best plain run"],
        closing=summary("Held-out loss beside the best plain run", runs),
        setting=(
            f"A transformer of 104,000 parameters learns the source code of Python's standard "
            f"library byte by byte, on {settings.ranks} processes: {settings.steps} steps of "
            f"AdamW, {settings.batch} rows of 64 bytes each, {settings.schedule} schedule, seed "
            f"{settings.seed}. Rates are the schedule's peaks. The right one is the best of a "
            f"sweep of plain DDP; a rate found is the peak of a schedule that ends at the same "
            f"rate. Explorer has its defaults, a probe, and a sync every {settings.sync_every} "
            f"steps. Losses are nats per byte, held-out ones of files that no run has seen. "
            f"This is one seed of one small model."
        ),
    )
