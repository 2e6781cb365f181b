"""CPU time of an outer step of `hdet.bilevel.maid`, against the same algorithm in plain NumPy.

    python benchmarks/bilevel_speed.py [--rounds 7] [--budget 1000]

Both sides run MAID with `Rules()`, Newton-CG and no test on omega, on the same data from the
same start, one thread, in one process, in turns. They make as many outer steps as the budget
of cost (lower gradients, Hessian-vector and mixed products) has room for; problem A makes 15,
after which only rounding is left to gain. Each run is checked to come to the same values.

    scipy      derivatives by hand, SciPy's CG on one sample after the other, and, on D, its
               correlations of one image with one filter after the other
    batched    all images and filters at once; on A and B there is one sample, and no such peer

hdet has no derivatives by hand: what autograd costs beside them is part of what is measured.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy
import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from hdet.bilevel import maid
from hdet.bilevel.oracle import Oracle

from ..bilevel.runs.tasks import TASKS, Task
from ..core.records import write_record
from ..core.timing import ratios
from .numpy_maid import Maid, Outcome
from .problems import levels_of

LETTERS = {"quadratic": "A", "logistic": "B", "tv": "C", "foe": "D"}
MOST_STEPS = {"quadratic": 15}
# A run this short is made several times over, so that the clock's grain is none of it.
SHORTEST = 0.3
# How far apart values may be: of every step by rounding, of later ones by what that leads to.
SAME_FIRST, SAME_LAST = 1e-6, 1e-3


def of_hdet(task: Task, steps: int, budget: int | None = None) -> Outcome:
    """Run hdet's MAID."""
    result = maid(
        task.problem,
        task.theta0,
        task.x0,
        step=task.step,
        max_steps=steps,
        budget=budget,
        certify=False,
    )
    history = result.history
    return Outcome(
        np.empty(0),
        [step.value for step in history],
        [step.cost for step in history],
        result.counts.cost,
        result.status.value,
    )


def of_numpy(task: Task, batched: bool) -> Callable[[int], Outcome]:
    """Return what runs the peer for some steps; the data is made ready here."""
    oracle = Oracle(task.problem, task.theta0, task.x0, "bilevel_speed")
    theta, x = oracle.flat_theta(task.theta0), oracle.flat_x(task.x0)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    levels = levels_of(task, batched=batched)

    def run(steps: int) -> Outcome:
        return Maid(
            levels,
            theta.numpy(),
            x.numpy(),
            noise.numpy(),
            step=task.step,
            max_steps=steps,
            budget=10**9,
            batched=batched,
        ).run()

    return run


def check(task: str, peer: str, ours: Outcome, theirs: Outcome) -> float:
    """Return by how much the first ten values differ, relatively.

    Raises:
        RuntimeError: if that, or the whole run's difference, is more than rounding's.
    """
    apart = [abs(a / b - 1) for a, b in zip(ours.values, theirs.values, strict=True)]
    if max(apart[:10]) > SAME_FIRST or max(apart) > SAME_LAST:
        raise RuntimeError(f"{task}, {peer}: not the same algorithm: values differ by {apart}")
    return max(apart[:10])


def measure(name: str, rounds: int, budget: int) -> dict:
    """Time both sides of one problem in turns."""
    task = TASKS[name](0)
    most = MOST_STEPS.get(name, 10_000)
    steps = len(of_hdet(task, most, budget).values)
    runs: dict[str, Callable[[int], Outcome]] = {
        "hdet": lambda steps: of_hdet(task, steps),
        "scipy": of_numpy(task, batched=False),
    }
    if task.problem.samples:
        runs["batched"] = of_numpy(task, batched=True)
    outcomes, repeats = {}, {}
    for side, run in runs.items():
        began = time.process_time()
        outcomes[side] = run(steps)
        repeats[side] = max(1, round(SHORTEST / (time.process_time() - began)))
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for turn in range(rounds):
        order = list(runs)
        shift = turn % len(order)
        for side in order[shift:] + order[:shift]:
            began = time.process_time()
            for _ in range(repeats[side]):
                runs[side](steps)
            seconds[side].append((time.process_time() - began) / repeats[side])
    median = {side: statistics.median(taken) for side, taken in seconds.items()}
    made = {
        "title": task.title,
        "steps": steps,
        "sides": {
            side: {
                "cost": outcomes[side].cost,
                "last value": outcomes[side].values[-1],
                "ms per outer step": 1e3 * median[side] / steps,
                "us per product": 1e6 * median[side] / outcomes[side].cost,
                "seconds of each run": seconds[side],
            }
            for side in runs
        },
    }
    made["hdet against"] = {
        peer: {
            "outer step, ratio of medians": median["hdet"] / median[peer],
            "product, ratio of medians": median["hdet"]
            / median[peer]
            * (outcomes[peer].cost / outcomes["hdet"].cost),
            "round by round": ratios(seconds, "hdet", peer),
            "first ten values apart": check(name, peer, outcomes["hdet"], outcomes[peer]),
        }
        for peer in list(runs)[1:]
    }
    return made


def table(problems: dict[str, dict]) -> Table:
    """Return the record as a table."""
    made = Table(title="CPU time: hdet against the same algorithm in NumPy")
    for column in ("problem", "peer", "steps", "cost", "hdet, ms/step", "peer, ms/step"):
        made.add_column(column, justify="left" if column in ("problem", "peer") else "right")
    made.add_column("step, ratio (quartiles)", justify="right")
    made.add_column("product, ratio", justify="right")
    for name, measured in problems.items():
        sides = measured["sides"]
        for peer, against in measured["hdet against"].items():
            spread = against["round by round"]
            made.add_row(
                f"{LETTERS[name]} {name}",
                peer,
                str(measured["steps"]),
                f"{sides['hdet']['cost']} / {sides[peer]['cost']}",
                f"{sides['hdet']['ms per outer step']:.2f}",
                f"{sides[peer]['ms per outer step']:.2f}",
                f"{against['outer step, ratio of medians']:.2f} "
                f"({spread['lower']:.2f} to {spread['upper']:.2f})",
                f"{against['product, ratio of medians']:.2f}",
            )
    return made


def main() -> None:
    """Measure everything, write the record and print it."""
    parser = argparse.ArgumentParser(description="CPU time of MAID in hdet, and in NumPy.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget", type=int, default=1000)
    options = parser.parse_args()
    if options.rounds < 5:
        parser.error(f"--rounds {options.rounds}: at least 5, or the spread says nothing")
    torch.set_num_threads(1)
    problems = {}
    with threadpool_limits(1):
        for name in TASKS:
            problems[name] = measure(name, options.rounds, options.budget)
    content = {
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "threads": 1,
        "rounds": options.rounds,
        "budget": options.budget,
        "load_average": os.getloadavg()[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "problems": problems,
    }
    command = f"python benchmarks/bilevel_speed.py --rounds {options.rounds}"
    write_record("bilevel_speed", f"{command} --budget {options.budget}", content)
    Console(width=120).print(table(problems))


if __name__ == "__main__":
    main()
