"""torchtitan's converging protocol: control and experiment, with their curves overlaid.

    nice -n 10 python -m benchmarks converging

Its `docs/converging.md` asks of a technique for the same tokens a step, everything else as in
the control, and both loss curves in one picture. The control is plain training at a sweep's
best rate, and from rates far too low and far too high; the experiment is Explorer from the
same three rates, its search ending with the climb as it does under FSDP2. A byte-level GPT of
0.1M parameters, under torchtitan's schedule of warm-up, constant rate and decay.

Everything runs in one process on one core, in about five minutes of it. Each run is appended to
a file when it is done: a study that was stopped goes on from there. Writes
records/converging.json and the page's picture.
"""

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..core.files import append, read_lines
from ..core.records import record, write_record
from ..robustness.loop import plain
from ..robustness.ours import SYNC_EVERY, explorer
from ..robustness.problems import REPLICAS, Problem, load
from .analysis import CONTROL, EXPERIMENT

PROBLEM = Problem("converging", "gpt-0.1M", "adamw", "wsd", 400, 1e-2, "tuning")
SWEEP = [1e-3, 3e-3, 1e-2, 3e-2]
FAR = 30.0  # how many times the best rate is missed
SEEDS = (0, 1)
_PROGRESS = Path(tempfile.gettempdir()) / "hdet-converging.jsonl"


class Results:
    """Runs by arm, rate and seed, done once and kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._done = path, dict(read_lines(path, "remove it"))
        self.task: Any = load(PROBLEM)

    def __getitem__(self, work: tuple[str, float, int]) -> dict[str, Any]:
        # The settings are part of the key, so that a file of other runs does no harm.
        key = json.dumps([asdict(PROBLEM), *work])
        if key not in self._done:
            arm, rate, seed = work
            if arm == CONTROL:
                outcome = plain(PROBLEM, self.task, rate, seed)
            else:
                outcome = explorer(PROBLEM, self.task, rate, seed, trials=False)
            self._done[key] = asdict(outcome)
            append(self._path, [[key, self._done[key]]])
            print(*work, outcome.held_out, flush=True)
        return self._done[key]

    def row(self, arm: str, rate: float) -> dict[str, Any]:
        """Return what an arm does from a rate."""
        return {"arm": arm, "start": rate, "runs": [self[arm, rate, seed] for seed in SEEDS]}


def command(
    progress: Annotated[
        Path, typer.Option(help="Where finished runs are kept, to go on from.")
    ] = _PROGRESS,
) -> None:
    """Overlay Explorer's loss curves on plain training's, as torchtitan asks."""
    torch.set_num_threads(1)
    results = Results(progress)

    def end(rate: float) -> float:
        mean = sum(results[CONTROL, rate, seed]["held_out"] for seed in SEEDS) / len(SEEDS)
        return mean if math.isfinite(mean) else math.inf

    sweep = {rate: end(rate) for rate in SWEEP}
    best = min(SWEEP, key=lambda rate: sweep[rate])
    starts = (best, best / FAR, best * FAR)
    about = {
        "problem": asdict(PROBLEM),
        "replicas": REPLICAS,
        "sync every": SYNC_EVERY,
        "tokens": REPLICAS * results.task.batch_size * results.task.context,
        "seeds": list(SEEDS),
        "best": best,
        "far": FAR,
        "sweep": {str(rate): loss for rate, loss in sweep.items()},
        "rows": [results.row(arm, rate) for arm in (CONTROL, EXPERIMENT) for rate in starts],
    }
    write_record("converging", "python -m benchmarks converging", about)
    from .plots import draw

    draw(record("converging"))
