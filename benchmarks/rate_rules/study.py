"""What finds a learning rate: sweeps, rules that climb, and short whole trials on GPTs.

    python -m benchmarks rate-rules           # minutes on a CUDA device of 139 GB
    python -m benchmarks rate-rules --smoke   # everything in miniature, seconds on a CPU

Each problem is a sweep of plain runs, and then every rule from several starts, given as
multiples of the sweep's best rate. The record, records/rate_rules.json, has the held-out losses
of both, where each rule crossed first and where it ended; and the losses of the trials.
"""

import datetime
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
import typer

from ..core.records import record, write_record
from .models import DEVICE, GPT
from .rules import Rule
from .runs import Found, run, trials

LOG2, LOG3 = math.log(2), math.log(3)
ALONE = Rule(crossings=1, cut=LOG2, roll="initial", restart=True, warmup=1.0)
KEEP = Rule(clear="none")
SLOW10 = Rule(smooth=10.0, lag=1.0)
RULES: dict[str, Rule] = {
    "base": Rule(),
    "moments kept": KEEP,
    "second moment cleared": Rule(clear="second"),
    "no way back": Rule(roll="none"),
    "no way back, kept": Rule(roll="none", clear="none"),
    "one crossing, cut 2": Rule(crossings=1, cut=LOG2),
    "one crossing, cut 3": Rule(crossings=1),
    "initial weights, one crossing, cut 2": ALONE,
    "initial weights, one crossing, cut 1": replace(ALONE, cut=0.0),
    "initial weights, one crossing, cut 2, again at 35 %": replace(ALONE, again=(0.35,)),
    "again at 6, 12 %": Rule(again=(0.06, 0.12)),
    "again at 3, 6, 12 %": Rule(again=(0.03, 0.06, 0.12)),
    "again at 6, 12, 25 %": Rule(again=(0.06, 0.12, 0.25)),
    "kept, again at 6, 12 %": replace(KEEP, again=(0.06, 0.12)),
    "again at 6, 12 %, no shift": Rule(again=(0.06, 0.12), again_shift=0.0),
    "cut 2, shift up 1.6": Rule(cut=LOG2, shift=-math.log(1.6)),
    "7 crossings, largest": Rule(crossings=7, land="max"),
    "7 crossings": Rule(crossings=7),
    "smoothed over 10": SLOW10,
    "smoothed over 20": Rule(smooth=20.0, lag=2.0),
    "half the speed": Rule(slow=0.05, lag=0.25),
    "twice the speed": Rule(slow=0.2, lag=1.0),
    "cosine": Rule(signal="cosine"),
    "beta2 0.95 in the climb": Rule(beta2=0.95),
    "beta2 0.95 in the climb, kept": replace(KEEP, beta2=0.95),
    "warm-up of 50": Rule(warmup=50.0),
    "largest": Rule(land="max"),
    "largest, no shift": Rule(land="max", shift=0.0),
    "largest, again at 6, 12 %": Rule(land="max", again=(0.06, 0.12)),
    "bias 0.05": Rule(bias=0.05, hold_by="agreement"),
    "no hold": Rule(gain=0.0),
    "hold at half the gain": Rule(gain=10.0),
    "hold without damping": Rule(down=1.0),
    "hold by agreement": Rule(gain=10.0, hold_by="agreement"),
    "initial weights": Rule(roll="initial"),
    "initial weights, kept": replace(KEEP, roll="initial"),
    "kept, 7 crossings, largest, again at 6, 12 %": replace(
        KEEP, crossings=7, land="max", again=(0.06, 0.12)
    ),
    "kept, 7 crossings, largest": replace(KEEP, crossings=7, land="max"),
    "kept, largest, no shift": replace(KEEP, land="max", shift=0.0),
    "kept, smoothed over 10, largest": replace(SLOW10, clear="none", land="max"),
    "no way back, kept, largest, again at 6, 12 %": Rule(
        roll="none", clear="none", land="max", again=(0.06, 0.12)
    ),
}
FEW = ("one crossing, cut 3", "moments kept", "half the speed", "cosine")
# Width, layers, context, and whether standard.
MODELS = {
    "0.1M": (64, 2, 64, False),
    "0.84M": (128, 4, 128, True),
    "10.8M": (384, 6, 256, True),
}
STARTS = (1 / 30, 1.0, 30.0)  # times the best rate


@dataclass(frozen=True)
class Problem:
    """A model, a run, and what is run of it."""

    model: str
    schedule: str
    steps: int
    windows: int  # of a step
    centre: float  # rate
    sweep: tuple[int, int]  # from and to, in quarter decades from the centre
    seeds: int = 1
    starts: tuple[float, ...] = STARTS
    rules: tuple[str, ...] = tuple(RULES)


PROBLEMS = {
    "0.1M, one-cycle": Problem("0.1M", "one-cycle", 800, 16, 5.6e-3, (-4, 4), seeds=2),
    "0.1M, warm-up + cosine": Problem(
        "0.1M", "warmup-cosine", 800, 16, 5.6e-3, (-4, 4), seeds=2
    ),
    "0.1M, cosine": Problem("0.1M", "cosine", 800, 16, 3e-3, (-4, 4), seeds=2),
    "0.84M": Problem("0.84M", "warmup-cosine", 400, 16, 1e-3, (-5, 4)),
    "10.8M, 350 steps": Problem(
        "10.8M", "warmup-cosine", 350, 16, 7e-4, (-4, 3), starts=(1.0,)
    ),
    "10.8M, 700 steps": Problem("10.8M", "warmup-cosine", 700, 32, 1e-3, (-3, 2), rules=FEW),
}


@dataclass(frozen=True)
class Trial:
    """Trials of one model from the same weights, at rates a quarter decade apart."""

    model: str
    lowest: float
    rates: int
    lengths: tuple[int, ...]
    before: tuple[int, float] | None = None  # steps at a rate, before the trials
    windows: int = 16


TRIALS = (
    Trial("10.8M", 1e-4, 7, (12, 24, 48, 96)),
    Trial("10.8M", 1e-4, 7, (12, 24, 48), before=(40, 1e-4)),
    Trial("0.84M", 2e-4, 8, (12, 24, 48, 96)),
    Trial("0.1M", 1e-3, 8, (12, 24, 48, 96)),
    Trial("0.1M", 1e-3, 8, (24, 48), before=(80, 1e-3)),
)


def grid(first: int, last: int) -> list[float]:
    """Return factors a quarter of a decade apart."""
    return [10 ** (k / 4) for k in range(first, last + 1)]


def measured(problem: Problem, model: GPT) -> dict[str, Any]:
    """Return what a problem's sweep and rules came to."""
    about = (problem.schedule, problem.steps, problem.windows)
    seeds, sweep = range(problem.seeds), grid(*problem.sweep)
    fixed = [Rule(fixed=factor) for factor in sweep]
    plain = run(model, *about, fixed, [problem.centre], seeds)
    means = plain.held_out[:, 0].mean(1).nan_to_num(math.inf)
    best = problem.centre * sweep[int(means.argmin())]
    rules = [RULES[name] for name in problem.rules]
    found = run(model, *about, rules, [best * start for start in problem.starts], seeds)
    return entry(problem, model.count, best, plain, found)


def entry(
    problem: Problem, weights: int, best: float, plain: Found, found: Found
) -> dict[str, Any]:
    """Return a problem's part of the record."""
    about = {k: v for k, v in asdict(problem).items() if k not in ("centre", "sweep", "rules")}
    rates = [problem.centre * factor for factor in grid(*problem.sweep)]
    lists = zip(
        problem.rules,
        _rounded(found.held_out),
        _rounded(found.crossings[0] / best),
        _rounded(found.rates / best),
        strict=True,
    )
    return {
        **about,
        "weights": weights,
        "best": best,
        "sweep": {"rates": rates, "held out": _rounded(plain.held_out[:, 0])},
        # Held-out losses, and rates over the best one: [start][seed].
        "rules": {
            name: {"held out": held_out, "first crossing": crossing, "end": end}
            for name, held_out, crossing, end in lists
        },
    }


def tried(trial: Trial, model: GPT) -> dict[str, Any]:
    """Return the losses of a trial at each rate, by its length."""
    rates = [trial.lowest * factor for factor in grid(0, trial.rates - 1)]
    losses = trials(model, trial.windows, rates, trial.lengths, trial.before)
    return {**asdict(trial), "rates": rates, "losses": {str(n): v for n, v in losses.items()}}


def write(problems: dict[str, Any], short: Sequence[dict[str, Any]], **about: Any) -> None:
    """Write the record, and draw the picture."""
    content = {"runs": 1, "problems": problems, "trials": list(short)}
    write_record("rate_rules", "python -m benchmarks rate-rules", {**about, **content})
    # Matplotlib takes a while to import, and is needed only here.
    from .plots import draw

    draw(record("rate_rules"))


def command(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Tiny models, few steps, no record.")
    ] = False,
) -> None:
    """Compare rules that find a learning rate, and short trials, on GPTs of three sizes."""
    torch.backends.cuda.matmul.allow_tf32 = True
    shapes, short = MODELS, {}
    if smoke:
        shapes = {name: (64, 1, 8, standard) for name, (*_, standard) in MODELS.items()}
        short = {"steps": 16, "windows": 2, "rules": FEW, "sweep": (-1, 1)}
    models, problems = {name: GPT(*shape) for name, shape in shapes.items()}, {}
    for model in models.values() if smoke else ():
        model.held_windows = 2
    for name, problem in PROBLEMS.items():
        wanted = replace(problem, **short)
        problems[name] = measured(wanted, models[problem.model])
        losses = problems[name]["sweep"]["held out"]
        print(f"{name}: best rate {problems[name]['best']:.3g} of {losses}", flush=True)
    done = []
    for trial in TRIALS:
        before = trial.before and (3, trial.before[1])
        wanted = replace(trial, lengths=(4,), windows=2, before=before) if smoke else trial
        done.append(tried(wanted, models[trial.model]))
        print(f"{trial.model}, trials after {trial.before}: {done[-1]['losses']}", flush=True)
    if not smoke:
        device = torch.cuda.get_device_name() if DEVICE == "cuda" else "a CPU"
        write(problems, done, device=device, date=str(datetime.date.today()))


def _rounded(values: torch.Tensor) -> list:
    return [_rounded(part) if part.ndim else round(float(part), 5) for part in values]
