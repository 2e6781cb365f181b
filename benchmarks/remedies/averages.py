"""What a run would gain by returning an average of its weights.

Plain runs, at the best rate and around it, keep exponential moving averages of their weights
with several half-lives. At the end each average is compared with the last weights.
"""

import torch

from ..robustness.loop import train
from ..robustness.problems import (
    PROBLEMS,
    held_out_loss,
    load,
    make_schedule,
    new_model,
    new_optimizer,
    parameter_groups,
)

HALF_LIVES = [0.005, 0.01, 0.02, 0.05]  # of the run
MULTIPLES = [1 / 3, 1.0, 3.0]  # of the best rate
EVERY = 5  # steps


def losses(name: str, rate: float, seed: int) -> list[float]:
    """Return the held-out loss of the last weights, and of each average."""
    problem = PROBLEMS[name]
    task = load(problem)
    model = new_model(task, seed)
    optimizer = new_optimizer(problem, parameter_groups(problem, task, model), rate)
    schedule = make_schedule(optimizer, problem, rate)
    averages = [[p.detach().clone() for p in model.parameters()] for _ in HALF_LIVES]
    steps = 0

    @torch.no_grad()
    def take_in() -> None:
        for half_life, average in zip(HALF_LIVES, averages, strict=True):
            weight = 1 - 0.5 ** (EVERY / (half_life * problem.steps))
            torch._foreach_lerp_(average, list(model.parameters()), weight)

    def after(loss: float) -> None:
        nonlocal steps
        schedule.step()
        steps += 1
        if steps % EVERY == 0:
            take_in()

    outcome = train(problem, task, seed, model, optimizer, after)
    take_in()
    found = [outcome.held_out]
    for average in averages:
        with torch.no_grad():
            for p, mean in zip(model.parameters(), average, strict=True):
                p.copy_(mean)
        found.append(held_out_loss(task, model))
    return found
