"""torchtitan's converging protocol: control and experiment, with their curves overlaid.

    nice -n 10 python -m benchmarks converging

Its `docs/converging.md` asks of a technique for the same tokens a step, everything else as in
the control, and both loss curves in one picture. The control is plain training at a sweep's
best rate, and from rates far too low and far too high; the experiment is Explorer from the
same three rates, its search ending with the climb as it does under FSDP2. A byte-level GPT of
0.1M parameters, under torchtitan's schedule of warm-up, constant rate and decay.

Everything runs in one process on one core, in about five minutes of it. Writes
records/converging.json.
"""

import math
from dataclasses import asdict

import torch

from ..core.records import write_record
from ..core.statistics import estimate
from ..robustness.loop import plain
from ..robustness.ours import SYNC_EVERY, explorer
from ..robustness.problems import REPLICAS, Outcome, Problem, load

PROBLEM = Problem("converging", "gpt-0.1M", "adamw", "wsd", 400, 1e-2, "tuning")
SWEEP = [3e-3, 1e-2, 3e-2]
FAR = 30.0  # how many times the best rate is missed
SEEDS = (0, 1)


def _row(arm: str, start: float, outcomes: list[Outcome]) -> dict:
    finite = all(math.isfinite(outcome.held_out) for outcome in outcomes)
    found = estimate([outcome.held_out for outcome in outcomes])
    return {
        "arm": arm,
        "start": start,
        "loss": {"mean": found.mean, "error": found.error} if finite else None,
        "runs": [asdict(outcome) for outcome in outcomes],
    }


def command() -> None:
    """Overlay Explorer's loss curves on plain training's, as torchtitan asks."""
    torch.set_num_threads(1)
    task = load(PROBLEM)

    def control(rate: float) -> list[Outcome]:
        found = [plain(PROBLEM, task, rate, seed) for seed in SEEDS]
        print("plain", rate, [outcome.held_out for outcome in found], flush=True)
        return found

    def experiment(rate: float) -> list[Outcome]:
        found = [explorer(PROBLEM, task, rate, seed, trials=False) for seed in SEEDS]
        print("explorer", rate, [outcome.held_out for outcome in found], flush=True)
        return found

    swept = {rate: control(rate) for rate in SWEEP}
    means = {rate: sum(o.held_out for o in found) for rate, found in swept.items()}
    best = min(SWEEP, key=lambda rate: means[rate] if math.isfinite(means[rate]) else math.inf)
    rows = [_row("control", best, swept[best])]
    for start in (best / FAR, best * FAR):
        rows.append(_row("control", start, control(start)))
    for start in (best, best / FAR, best * FAR):
        rows.append(_row("explorer", start, experiment(start)))
    about = {
        "problem": asdict(PROBLEM),
        "replicas": REPLICAS,
        "sync every": SYNC_EVERY,
        "tokens": REPLICAS * task.batch_size * task.context,
        "seeds": list(SEEDS),
        "best": best,
        "far": FAR,
        "sweep": {
            str(rate): _row("control", rate, found)["loss"] for rate, found in swept.items()
        },
        "rows": rows,
    }
    write_record("converging", "python -m benchmarks converging", about)
