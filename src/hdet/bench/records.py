"""The run folder: what a comparison writes, and all that reports are made from.

    <folder>/config.json                       what was asked for, of which rows
    <folder>/environment.json                  versions and machine
    <folder>/runs/<name>/seed<k>/metrics.jsonl one line per step and per sync, in order
    <folder>/runs/<name>/seed<k>/result.json   written last; without, unfinished
    <folder>/summary.json, plots/*.png, report.html

Whole files are written beside their place and moved there, so that a killed run leaves
no half of one; of a JSON-lines file a torn last line is passed over. Whole files are
strict JSON, with null for NaN and infinity; the lines of a diverged run hold `NaN`.
"""

import json
import math
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Configuration:
    """One row of the comparison.

    Attributes:
        name: folder name, as in `hdet-full`.
        label: how tables and plots call it, as in `HDET (full)`.
        role: `paper` for the six configurations of the paper's table, `control` for the
            rows that the table lacks.
        lr: the peak of the mean learning rate.
        spread: alpha; 0 trains all replicas at the same rate.
        average: whether the weights are averaged every `sync_every` steps.
        auto_lr: whether the controller acts.
        warm_start: whether the run starts from the checkpoint.
        noisy: whether each replica adds noise of its own to its start.
        note: one sentence on what the row is there for.
    """

    name: str
    label: str
    role: str
    lr: float
    spread: float = 0.0
    average: bool = False
    auto_lr: bool = False
    warm_start: bool = False
    noisy: bool = False
    note: str = ""


@dataclass(frozen=True)
class Settings:
    """What a comparison was asked for; the content of `config.json`.

    Attributes:
        task: name of the task.
        title: the task in a line, with the unit of the loss.
        groups: names of the parameter groups.
        replicas: N.
        steps: optimizer steps of each run.
        seeds: how many seeds, 0 to seeds - 1.
        sync_every: T in optimizer steps.
        auto_lr_after: S_warm in optimizer steps.
        spread: alpha of the configurations that have one.
        loss_scale: sigma.
        lr_of_lr: lambda.
        momentum_of_lr: beta.
        noise: nu of the warm start.
        warm_steps: steps of the checkpoint that warm starts begin from.
        data: path the user gave, if any.
        configurations: the rows, in the order of the table.
    """

    task: str
    title: str
    groups: list[str]
    replicas: int
    steps: int
    seeds: int
    sync_every: int
    auto_lr_after: int
    spread: float
    loss_scale: float
    lr_of_lr: float
    momentum_of_lr: float
    noise: float
    warm_steps: int
    data: str | None
    configurations: list[Configuration] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """How one run of one seed ended.

    Attributes:
        train_loss: mean over replicas and the last tenth of the steps (at least one).
        held_out_loss: of the averaged weights.
        diverged: whether a loss was not finite, or the run ended above where it began;
            see `run_log.unlearned`.
        mean_lr: mean of the base learning rate over steps and groups.
        final_lr: mean over groups of the base learning rate at the last step.
        seconds: wall time of the training steps, syncs included.
        sync_share: share of those seconds spent in syncs.
    """

    train_loss: float
    held_out_loss: float
    diverged: bool
    mean_lr: float
    final_lr: float
    seconds: float
    sync_share: float


class RunFolder:
    """One comparison on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, settings: Settings) -> None:
        """Make the folder and write what was asked for."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", asdict(settings))
        write_json(self.path / "environment.json", environment())

    def settings(self) -> Settings:
        """Read back what was asked for.

        Raises:
            ValueError: if this is not a run folder.
        """
        try:
            raw = json.loads((self.path / "config.json").read_text())
            rows = [Configuration(**row) for row in raw.pop("configurations")]
            return Settings(**raw, configurations=rows)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.path} is not a run folder of `hdet compare`: {error}. Give the "
                f"folder that the run printed."
            ) from error

    def environment(self) -> dict[str, Any]:
        """Read the versions and the machine."""
        return json.loads((self.path / "environment.json").read_text())

    def run(self, name: str, seed: int) -> Path:
        """Return the folder of one run."""
        return self.path / "runs" / name / f"seed{seed}"

    def result(self, name: str, seed: int) -> Result | None:
        """Return how a run ended; None if it has not. What was not finite is NaN."""
        file = self.run(name, seed) / "result.json"
        if not file.exists():
            return None
        raw: dict[str, Any] = json.loads(file.read_text())
        raw |= {key: math.nan for key, value in raw.items() if value is None}
        return Result(**raw)

    def results(self, name: str) -> dict[int, Result]:
        """Return the finished runs of a configuration by their seeds, in order."""
        found = {seed: self.result(name, seed) for seed in range(self.settings().seeds)}
        return {seed: result for seed, result in found.items() if result is not None}

    def lines(self, name: str, seed: int, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the lines of one kind, `step` or `sync`, of a run's metrics, in order.

        A `step` line has `step` (from 1), `losses` (per replica), `base_lr` (per group)
        and `replica_lr` (per group, per replica), both in effect at that step. A `sync`
        line has `step` and what `OneCycleAutoLR.metrics()` returned after it: `weights`
        and `delta` are absent until the controller has acted. Losses may be NaN.
        """
        file = self.run(name, seed) / "metrics.jsonl"
        if not file.exists():
            return
        # Parsing is what costs, and this spares it the lines of other kinds.
        mark = f'"kind": "{kind}"'
        with file.open() as stream:
            for text in stream:
                if mark in text and text.endswith("\n"):
                    yield json.loads(text)


def write_json(file: Path, content: Any) -> None:
    """Write `content` whole, or leave what was there; null stands for NaN, infinity."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n")
    os.replace(beside, file)


def finite(content: Any) -> Any:
    """Return the content with None for every float that JSON does not have."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a result depends on."""
    packages = {}
    for name in ("hdet", "torch", "numpy", "scikit-learn"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": packages,
    }


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; NaN for what the values cannot give.

    One value has no error. Where a value is not finite, or their sum overflows, both
    are NaN: a mean of the others would look better than what was seen.
    """
    if not values or not all(map(math.isfinite, values)):
        return math.nan, math.nan
    try:
        mean = fmean(values)
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    except OverflowError:
        return math.nan, math.nan
    return mean, error
