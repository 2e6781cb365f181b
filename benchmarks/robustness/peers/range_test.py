"""The learning-rate range test, followed by the problem's schedule: what most people do.

One training run of 100 steps raises the rate exponentially from 1e-7 to 10, and stops where the
loss is five times its best. The rate at which the smoothed loss fell fastest becomes the peak
of a run from the start. Sources: Smith, arXiv 1506.01186, in fastai's form; package
torch-lr-finder 0.2.2, at its defaults and its README's first rate.

It asks for no start. Its own steps come on top of the run's: each counts as three forward
passes, two of them for the backward pass.
"""

from dataclasses import replace

from torch import Tensor, nn

from ...tasks import Batch, Task
from .. import problems
from ..loop import plain
from ..problems import Outcome, Problem
from .training import begin, package, set_mode, silence

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
PASSES = 3


class _Loss(nn.Module):
    """A task's loss as a model of a batch, since the package calls model and criterion."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> Tensor:
        return self.task.loss(self.model, batch)


def suggested_lr(problem: Problem, task: Task, seed: int) -> tuple[float, int]:
    """Return the rate of the steepest descent, and the steps that finding it took."""
    finder_package = package("torch_lr_finder")
    from matplotlib.figure import Figure

    model, optimizer = begin(problem, task, LOWEST, seed)
    set_mode(optimizer, "train")
    batches = (
        (problems.global_batch(task, seed, step % problem.steps), None) for step in range(STEPS)
    )
    with silence():
        finder = finder_package.LRFinder(_Loss(task, model), optimizer, lambda loss, _: loss)
        loader = finder_package.TrainDataLoaderIter(batches)
        finder.range_test(loader, end_lr=HIGHEST, num_iter=STEPS)
        _, lr = finder.plot(ax=Figure().subplots(), suggest_lr=True)
    return float(lr), len(finder.history["loss"])


def lr_finder(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train as plain DDP does at the rate that the range test suggests; `lr` is not used."""
    del lr
    suggested, steps = suggested_lr(problem, task, seed)
    outcome = plain(problem, task, suggested, seed)
    return replace(outcome, forwards=float(PASSES * steps))
