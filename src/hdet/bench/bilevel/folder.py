"""The run folder of `hdet bilevel`: what a run writes, and all that its report is made from.

    <folder>/config.json       what was asked for: `Settings`
    <folder>/environment.json  versions and machine
    <folder>/steps.jsonl       one line per outer step, in order: a `hdet.bilevel.Step`
    <folder>/state.pt          what the run goes on from, every few seconds and when it ends
    <folder>/theta.pt          what was learned
    <folder>/result.json       written last: an `Outcome`; without, unfinished
    <folder>/summary.json, plots/*.png, report.html

A step's line is written at once and flushed, so that others can follow a run; of a torn last
line the reader takes no notice, and a run that goes on drops what its state does not have.
"""

import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ...bilevel import Counts, Step
from ..records import environment, write_json
from .settings import Settings


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        message: why it stopped, and what to do about it.
        value: upper level at the inexact x that the method had.
        counts: what was computed.
        failed_searches: line searches in which no step was accepted.
        before: what theta0 was worth, at the exact x; see `Task.judge`.
        after: what the learned theta is worth, likewise.
        seconds: wall time of the method, all its parts together.
    """

    message: str
    value: float
    counts: Counts
    failed_searches: int
    before: dict[str, float]
    after: dict[str, float]
    seconds: float


class Folder:
    """One bilevel run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, settings: Settings) -> None:
        """Make the folder and write what was asked for."""
        self.path.mkdir(parents=True, exist_ok=True)
        versions = environment()
        try:
            versions["packages"]["scikit-image"] = version("scikit-image")
        except PackageNotFoundError:
            versions["packages"]["scikit-image"] = None
        write_json(self.path / "environment.json", versions)
        write_json(self.path / "config.json", asdict(settings))

    def settings(self) -> Settings:
        """Read back what was asked for.

        Raises:
            ValueError: if this is not a run folder.
        """
        try:
            return Settings(**json.loads((self.path / "config.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.path} is not a run folder of `hdet bilevel`: {error}. Give the "
                f"folder that the run printed."
            ) from error

    def extend(self, settings: Settings) -> None:
        """Let a run go on that is complete: write what is asked for now."""
        write_json(self.path / "config.json", asdict(settings))
        (self.path / "result.json").unlink(missing_ok=True)

    def environment(self) -> dict[str, Any]:
        """Read the versions and the machine."""
        return json.loads((self.path / "environment.json").read_text())

    def begin(self, rows: list[dict[str, Any]]) -> None:
        """Make these the steps: those of the state that a run goes on from."""
        beside = self.path / "steps.tmp"
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(beside, self.path / "steps.jsonl")

    def append(self, step: Step) -> None:
        """Write a step's line."""
        with (self.path / "steps.jsonl").open("a") as lines:
            lines.write(json.dumps(asdict(step)) + "\n")

    def steps(self) -> list[Step]:
        """Read the steps that were made, in order; a torn last line is passed over."""
        file = self.path / "steps.jsonl"
        lines = file.read_text().splitlines(True) if file.exists() else []
        return [Step(**json.loads(line)) for line in lines if line.endswith("\n")]

    def write_state(self, state: dict[str, Any], seconds: float) -> None:
        """Write what the run goes on from, whole or not at all.

        Args:
            state: the method's own, numbers and tensors.
            seconds: wall time so far.
        """
        self._save({"state": state, "seconds": seconds}, "state.pt")

    def state(self) -> tuple[dict[str, Any] | None, float]:
        """Read it back; None and 0 where there is none."""
        file = self.path / "state.pt"
        if not file.exists():
            return None, 0.0
        raw = torch.load(file, weights_only=True)
        return raw["state"], raw["seconds"]

    def write_theta(self, theta: Any) -> None:
        """Write what was learned."""
        self._save(theta, "theta.pt")

    def theta(self) -> Any:
        """Read what was learned."""
        return torch.load(self.path / "theta.pt", weights_only=True)

    def finish(self, outcome: Outcome) -> None:
        """Write that the run is complete, and how it ended."""
        write_json(self.path / "result.json", asdict(outcome))

    def outcome(self) -> Outcome | None:
        """Return how a complete run ended; None if it is not complete."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        raw = json.loads(file.read_text())
        return Outcome(**{**raw, "counts": Counts(**raw["counts"])})

    def _save(self, content: Any, name: str) -> None:
        beside = (self.path / name).with_suffix(".tmp")
        torch.save(content, beside)
        os.replace(beside, self.path / name)
