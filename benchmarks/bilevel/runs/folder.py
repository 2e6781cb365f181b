"""The run folder of `hdet bilevel`: what a run writes, and all that its report is made from.

    <folder>/config.json       what was asked for: `Settings`
    <folder>/environment.json  versions and machine
    <folder>/steps.jsonl       one line per outer step, in order: a `hdet.bilevel.Step`
    <folder>/state.pt          what the run goes on from, every few seconds and when it ends
    <folder>/theta.pt          what was learned
    <folder>/result.json       written last: an `Outcome`; without, unfinished
    <folder>/summary.json, plots/*.png, report.html

A step's line is written at once, so that others can follow a run; a run that goes on drops
what its state does not have.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from hdet.bilevel import Counts, Step
from hdet.state import Entries

from ...core.files import (
    append,
    damaged,
    read_json,
    read_lines,
    read_tensors,
    torn,
    write_json,
    write_tensors,
    write_whole,
)
from ...core.folders import CommandFolder
from ...core.parsing import nan_for_null, parsed
from .settings import Settings

_STEPS, _STATE = "steps.jsonl", "state.pt"


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


class Folder(CommandFolder[Settings]):
    """One bilevel run on disk."""

    plan_type, command, packages = Settings, "hdet bilevel", ("scikit-image",)

    def settings(self) -> Settings:
        """Read back what was asked for.

        Raises:
            FolderError: if this is not a run folder.
        """
        return self.plan()

    def check(self) -> None:
        """Read what is there; see `CommandFolder.check`."""
        super().check()
        self.state()
        if self.outcome() is None:
            # The steps are those of the state, and come again.
            return
        self.theta()
        steps = [one.step for one in self.steps()]
        if torn(self.path / _STEPS) or steps != list(range(1, len(steps) + 1)):
            what = "it does not have every step"
            raise damaged(self.path / _STEPS, what, self._again)

    def extend(self, settings: Settings) -> None:
        """Let a run go on that is complete: write what is asked for now."""
        self.write_plan(settings)
        (self.path / "result.json").unlink(missing_ok=True)

    def begin(self, rows: list[dict[str, Any]]) -> None:
        """Make these the steps: those of the state that a run goes on from."""
        write_whole(self.path / _STEPS, "".join(json.dumps(row) + "\n" for row in rows))

    def append(self, step: Step) -> None:
        """Write a step's line."""
        append(self.path / _STEPS, [asdict(step)])

    def steps(self) -> list[Step]:
        """Read the steps that were made, in order.

        Raises:
            FolderError: if a line is not one that was written.
        """
        file, made = self.path / _STEPS, []
        for line in read_lines(file, self._again):
            try:
                made.append(parsed(Step, line))
            except ValueError as error:
                raise damaged(file, f"step {len(made) + 1}: {error}", self._again) from error
        return made

    def write_state(self, state: dict[str, Any], seconds: float) -> None:
        """Write what the run goes on from, whole or not at all.

        Args:
            state: the method's own, numbers and tensors.
            seconds: wall time so far.
        """
        write_tensors(self.path / _STATE, {"state": state, "seconds": seconds})

    def state(self) -> tuple[dict[str, Any] | None, float]:
        """Read it back; None and 0 where there is none.

        Raises:
            FolderError: if it is damaged.
        """
        file = self.path / _STATE
        if not file.exists():
            return None, 0.0
        remedy = f"remove {file}, and --resume begins the run again"
        raw = read_tensors(file, remedy)
        try:
            whole = Entries(raw, "hdet bilevel --resume", call=str(file), source="the run")
            state, seconds = whole.entries("state"), whole.number("seconds", low=0.0)
            for row in state.items("history"):
                parsed(Step, row)
        except ValueError as error:
            raise damaged(file, error, remedy) from error
        return raw["state"], seconds

    def write_theta(self, theta: Any) -> None:
        """Write what was learned."""
        write_tensors(self.path / "theta.pt", theta)

    def theta(self) -> Any:
        """Read what was learned."""
        return read_tensors(self.path / "theta.pt", self._again)

    def finish(self, outcome: Outcome) -> None:
        """Write that the run is complete, and how it ended."""
        write_json(self.path / "result.json", asdict(outcome))

    def outcome(self) -> Outcome | None:
        """Return how a complete run ended; None if it is not complete."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        content = read_json(file, self._again)
        try:
            return parsed(Outcome, nan_for_null(content))
        except ValueError as error:
            raise damaged(file, error, self._again) from error

    @property
    def _again(self) -> str:
        return f"remove {self.path / 'result.json'}, and --resume ends the run again"
