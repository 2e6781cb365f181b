"""The run folder: what a comparison writes, and all that reports are made from.

    <folder>/config.json                       what was asked for, of which rows
    <folder>/environment.json                  versions and machine
    <folder>/runs/<name>/seed<k>/metrics.jsonl one line per step and per sync, in order
    <folder>/runs/<name>/seed<k>/result.json   written last; without, unfinished
    <folder>/summary.json, plots/*.png, report.html

Whole files are strict JSON, with null for NaN and infinity; the lines of a diverged run hold
`NaN`. See `files` for how they are written.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hdet.errors import require, require_number, require_whole

from ..core.files import damaged, read_json, read_lines, read_tensors
from ..core.folders import CommandFolder
from ..core.parsing import parsed, require_name

# The run that makes the checkpoint for warm starts; no row of the table.
CHECKPOINT = "checkpoint"
_METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Configuration:
    """One row of the comparison."""

    name: str  # of its folder, as in `hdet-full`
    label: str  # in tables and plots, as in `HDET (full)`
    role: str  # `paper` for the six of the paper's table, `control` for what it lacks
    lr: float  # the peak of the mean learning rate
    spread: float = 0.0  # alpha; 0 trains all replicas at the same rate
    average: bool = False  # whether the weights are averaged every `sync_every` steps
    auto_lr: bool = False  # whether the controller acts
    warm_start: bool = False  # whether the run starts from the checkpoint
    noisy: bool = False  # whether each replica adds noise of its own to its start


@dataclass(frozen=True)
class Settings:
    """What a comparison was asked for; the content of `config.json`."""

    task: str
    title: str  # the task in a line, with the unit of the loss
    groups: list[str]  # names of the parameter groups
    replicas: int  # N
    steps: int  # optimizer steps of each run
    seeds: int  # how many: 0 to seeds - 1
    sync_every: int  # T in optimizer steps
    auto_lr_after: int  # S_warm in optimizer steps
    spread: float  # alpha of the configurations that have one
    loss_scale: float  # sigma
    lr_of_lr: float  # lambda
    momentum_of_lr: float  # beta
    noise: float  # nu of the warm start
    warm_steps: int  # of the checkpoint that warm starts begin from
    data: str | None  # the path that the user gave
    configurations: list[Configuration] = field(default_factory=list)  # as in the table

    def __post_init__(self) -> None:
        for name in ("replicas", "steps", "seeds", "sync_every", "auto_lr_after"):
            require_whole("Settings", name, getattr(self, name), "raise it", low=1)
        require_whole("Settings", "warm_steps", self.warm_steps, "raise it")
        for name in ("spread", "loss_scale", "lr_of_lr", "momentum_of_lr", "noise"):
            require_number("Settings", name, getattr(self, name), "correct it", low=0)
        for row in self.configurations:
            require_number("Configuration", "lr", row.lr, "correct it", low=0)
            require_number("Configuration", "spread", row.spread, "correct it", low=0)
            require_name("Configuration", "name", row.name)
        names = [row.name for row in self.configurations]
        good = len({*names, CHECKPOINT}) == len(names) + 1
        rule = f"must have each name once, and none may be `{CHECKPOINT}`"
        require(good, "Settings", "configurations", names, rule, "name them apart")


@dataclass(frozen=True)
class Result:
    """How one run of one seed ended."""

    train_loss: float  # over replicas and the last tenth of the steps (at least one)
    held_out_loss: float  # of the averaged weights
    diverged: bool  # see `run_log.unlearned`
    mean_lr: float  # the base learning rate, over steps and groups
    final_lr: float  # the same at the last step, over groups
    seconds: float  # of the training steps, syncs included
    sync_share: float  # of those seconds


@dataclass(frozen=True)
class StepLine:
    """A line of kind `step` of `metrics.jsonl`; see `RunFolder.lines`."""

    kind: str
    step: int
    losses: list[float]
    base_lr: list[float]
    replica_lr: list[list[float]]


def checked_lines(file: Path, remedy: str) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a run's metrics; a `FolderError` at one that was not written."""
    for line in read_lines(file, remedy):
        try:
            kind = parsed(dict[str, Any], line).get("kind")
            if kind == "step":
                parsed(StepLine, line)
            parsed(str, kind, "kind")
            parsed(int, line.get("step"), "step")
        except ValueError as error:
            raise damaged(file, error, remedy) from error
        yield line


class RunFolder(CommandFolder[Settings]):
    """One comparison on disk."""

    plan_type, command = Settings, "python -m benchmarks compare"

    def check(self) -> None:
        """Read what is there; see `CommandFolder.check`."""
        super().check()
        settings = self.plan()
        for name in (*(row.name for row in settings.configurations), CHECKPOINT):
            for seed in range(settings.seeds):
                result = self.result(name, seed)
                if result is not None:
                    steps = settings.warm_steps if name == CHECKPOINT else settings.steps
                    self._check_run(name, seed, None if result.diverged else steps)

    def _check_run(self, name: str, seed: int, steps: int | None) -> None:
        """Read the lines of a run that is over; it has made so many steps, None if lost."""
        file, anew, made = self.run(name, seed) / _METRICS, self.anew(name, seed), 0
        if name == CHECKPOINT:
            read_tensors(self.warm_start(seed), anew)
        for line in checked_lines(file, anew):
            if line["kind"] == "step":
                if line["step"] != made + 1:
                    what = f"step {made} is followed by step {line['step']}"
                    raise damaged(file, what, anew)
                made += 1
        if steps not in (None, made):
            raise damaged(file, f"it ends at step {made} of {steps}", anew)

    def anew(self, name: str, seed: int) -> str:
        """Return the remedy for what is damaged of a run, in words."""
        return f"remove {self.run(name, seed)}, and --resume does that run again"

    def run(self, name: str, seed: int) -> Path:
        """Return the folder of one run."""
        return self.path / "runs" / name / f"seed{seed}"

    def warm_start(self, seed: int) -> Path:
        """Return the file with the weights that warm starts begin from."""
        return self.run(CHECKPOINT, seed) / "model.pt"

    def result(self, name: str, seed: int) -> Result | None:
        """Return how a run ended; None if it has not. What was not finite is NaN."""
        file = self.run(name, seed) / "result.json"
        if not file.exists():
            return None
        return read_json(file, self.anew(name, seed), Result)

    def results(self, name: str) -> dict[int, Result]:
        """Return the finished runs of a configuration by their seeds, in order."""
        found = {seed: self.result(name, seed) for seed in range(self.plan().seeds)}
        return {seed: result for seed, result in found.items() if result is not None}

    def lines(self, name: str, seed: int, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the lines of one kind, `step` or `sync`, of a run's metrics, in order.

        A `step` line has `step` (from 1), `losses` (per replica), `base_lr` (per group)
        and `replica_lr` (per group, per replica), both in effect at that step. A `sync`
        line has `step` and what `OneCycleAutoLR.metrics()` returned after it: `weights`
        and `delta` are absent until the controller has acted. Losses may be NaN.
        """
        file = self.run(name, seed) / _METRICS
        yield from read_lines(file, self.anew(name, seed), f'"kind": "{kind}"')
