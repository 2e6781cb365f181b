"""CPU time of an outer step of `hdet.bilevel.maid`, beside the same algorithm in plain NumPy.

Both sides run MAID with `Rules()`, Newton-CG and no test on omega, on the same data from the
same start, one thread, in one process, in turns. They make as many outer steps as the budget
of cost (lower gradients, Hessian-vector and mixed products) has room for; problem A makes 15,
after which only rounding is left to gain. Each run is checked to come to the same values.

    scipy      derivatives by hand, SciPy's CG on one sample after the other, and, on D, its
               correlations of one image with one filter after the other
    batched    all images and filters at once; on A and B there is one sample, and no such peer

hdet has no derivatives by hand: what autograd costs beside them is part of what is measured.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import scipy
import torch
import typer
from threadpoolctl import threadpool_limits

from hdet.bilevel import maid
from hdet.bilevel.oracle import Oracle

from ..bilevel.tasks import TASKS, Task
from ..core.records import write_record
from ..core.report import print_table
from ..core.timing import ratios
from .analysis import table
from .numpy_maid import Maid, Outcome
from .problems import levels_of

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


def measure(name: str, rounds: int, budget: int) -> dict[str, Any]:
    """Time both sides of one problem in turns."""
    task = TASKS[name](0)
    steps = len(of_hdet(task, MOST_STEPS.get(name, 10_000), budget).values)
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
    product = {side: median[side] / outcomes[side].cost for side in runs}
    return {
        "title": task.title,
        "steps": steps,
        "sides": {
            side: {
                "cost": outcomes[side].cost,
                "last value": outcomes[side].values[-1],
                "ms per outer step": 1e3 * median[side] / steps,
                "us per product": 1e6 * product[side],
                "seconds of each run": seconds[side],
            }
            for side in runs
        },
        "hdet against": {
            peer: {
                "outer step, ratio of medians": median["hdet"] / median[peer],
                "product, ratio of medians": product["hdet"] / product[peer],
                "round by round": ratios(seconds, "hdet", peer),
                "first ten values apart": check(name, peer, outcomes["hdet"], outcomes[peer]),
            }
            for peer in list(runs)[1:]
        },
    }


def command(
    # Fewer rounds would say nothing of their spread.
    rounds: Annotated[int, typer.Option(min=5, max=1000, help="Alternating rounds.")] = 7,
    budget: Annotated[
        int, typer.Option(min=500, max=10**6, help="Cost of a run, which sets its steps.")
    ] = 1000,
) -> None:
    """Time an outer step of MAID, beside the same algorithm in plain NumPy and SciPy.

    Minutes on one core; writes benchmarks/records/bilevel_speed.json.
    """
    torch.set_num_threads(1)
    with threadpool_limits(1):
        problems = {name: measure(name, rounds, budget) for name in TASKS}
    content = {
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "threads": 1,
        "rounds": rounds,
        "budget": budget,
        "load_average": os.getloadavg()[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "problems": problems,
    }
    again = f"python -m benchmarks bilevel-speed --rounds {rounds} --budget {budget}"
    write_record("bilevel_speed", again, content)
    print_table(table(problems))
