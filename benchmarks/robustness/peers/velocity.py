"""AdaLRS: search the rate by how fast the loss falls.

The velocity of the loss is the slope of a least-squares line through a window of it. Where it
has slowed since the last window, the rate is multiplied and the run saved. If the next window's
velocity is lower still, the run goes back to where it was saved and the rate is divided. The
factor multiplies the schedule. Source: Dong et al., arXiv 2506.13274. It has no code, and the
full text was not at hand: the rule is as its abstract and summaries describe it. Guesses are
the factors 3 and 2 that shrink by 1 % with each change, the window of 1/25 of the run and the
search's end at 30 % of it (on regression and teacher as good as or better than 1/50 and 50 %),
and that any difference of velocities counts.
"""

import copy
import math
import statistics
from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from ...tasks import Task
from .. import problems
from ..loop import train
from ..problems import Outcome, Problem
from .training import ScaledSchedule, begin

RAISE, LOWER, SHRINK = 3.0, 2.0, 0.99
WINDOWS, SEARCHED = 25, 0.3  # of a run: windows in it, and the part with a search


def velocity(losses: Sequence[float]) -> float:
    """Return how fast the losses fall per step, by least squares; NaN if one is not finite."""
    if not all(map(math.isfinite, losses)):
        return math.nan
    return -statistics.linear_regression(range(len(losses)), losses).slope


class AdaLrsRule:
    """The factor on the schedule.

    Attributes:
        factor: what the scheduled rate is to be multiplied by.
    """

    def __init__(self) -> None:
        """Begin at a factor of 1."""
        self.factor = 1.0
        self._last = -math.inf  # velocity of the last window that counts
        self._before: float | None = None  # the factor before the trial that is under way
        self._changes = 0

    def read(self, losses: Sequence[float]) -> str:
        """Read a window, and return what to do: `go on`, `save`, or go `back`."""
        found = velocity(losses)
        if self._before is not None:
            before, self._before = self._before, None
            if found >= self._last:
                self._last = found
                return "go on"
            self.factor = before / self._shrunk(LOWER)
            return "back"
        slowed, self._last = found < self._last, found
        if not slowed:
            return "go on"
        self._before = self.factor
        self.factor *= self._shrunk(RAISE)
        return "save"

    @property
    def trying(self) -> bool:
        """Whether a raised rate has yet to be judged."""
        return self._before is not None

    def _shrunk(self, factor: float) -> float:
        self._changes += 1
        return max(1.0, factor * SHRINK ** (self._changes - 1))


def adalrs(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    """Train with the problem's schedule from `lr` times the factor of `AdaLrsRule`.

    Steps that are taken back are steps of the run all the same.
    """
    model, optimizer = begin(problem, task, lr, seed)
    schedule = ScaledSchedule(optimizer, problems.make_schedule(optimizer, problem, lr))
    rule, window = AdaLrsRule(), max(3, problem.steps // WINDOWS)
    losses: list[float] = []
    saved: tuple[dict, dict] | None = None
    done = 0

    def after(loss: float) -> None:
        nonlocal saved, done
        losses.append(loss)
        done += 1
        searching = done <= SEARCHED * problem.steps or rule.trying
        if searching and len(losses) == window:
            found = rule.read(losses)
            losses.clear()
            if found == "save":
                saved = _state(model, optimizer)
            elif found == "back" and saved is not None:
                _restore(model, optimizer, saved)
        schedule.step()
        schedule.scale(rule.factor)

    return train(problem, task, seed, model, optimizer, after)


def _state(model: nn.Module, optimizer: Optimizer) -> tuple[dict, dict]:
    return copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())


def _restore(model: nn.Module, optimizer: Optimizer, saved: tuple[dict, dict]) -> None:
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(copy.deepcopy(saved[1]))
