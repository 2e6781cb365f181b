"""The run folder of `hdet federate`: what a run writes, and all that its report is made from.

    <folder>/config.json       what was asked for
    <folder>/environment.json  versions and machine
    <folder>/rounds.jsonl      one line per round, in order: a `RoundRecord`
    <folder>/model.pt          the final model, a state dict; see `state_of`
    <folder>/result.json       written last; without, unfinished
    <folder>/app, flower.log   with Flower: the app that ran, and what Flower said
    <folder>/summary.json, plots/*.png, report.html

A round's line is written at once, so that others can follow a run. The lines of a diverged run
hold `NaN`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from hdet.errors import require

from ...core.files import (
    append,
    damaged,
    read_json,
    read_lines,
    read_tensors,
    write_json,
    write_tensors,
)
from ...core.folders import CommandFolder
from ...core.parsing import parsed
from .run import RoundRecord
from .settings import Settings

ENGINES = ("in-process", "flower")
_ROUNDS = "rounds.jsonl"
# The layers of torch.nn.Sequential(Linear, ReLU, Linear), as its state dict names them.
_ENTRIES = ("0.weight", "0.bias", "2.weight", "2.bias")


@dataclass(frozen=True)
class Plan:
    """What was asked for; the content of `config.json`.

    Attributes:
        settings: the run.
        engine: where its clients train; one of `ENGINES`.
    """

    settings: Settings
    engine: str = "in-process"

    def __post_init__(self) -> None:
        known = f"write one of {', '.join(ENGINES)}"
        require(self.engine in ENGINES, "Plan", "engine", self.engine, "is not known", known)


class Folder(CommandFolder[Plan]):
    """One federated run on disk."""

    plan_type, command, packages = Plan, "hdet federate", ("flwr", "ray")

    def check(self) -> None:
        """Read what is there; see `CommandFolder.check`."""
        super().check()
        if self.seconds() is None:
            # The rounds of a run that was stopped come again.
            return
        self.model()
        rounds, asked = [one.round for one in self.records()], self.plan().settings.rounds
        if rounds != list(range(1, asked + 1)):
            what = f"it has {len(rounds)} of {asked} rounds"
            raise damaged(self.path / _ROUNDS, what, self._again)

    def begin(self) -> None:
        """Forget the rounds of a run that was stopped: the same ones come again."""
        for name in ("result.json", "model.pt", "rounds.jsonl"):
            (self.path / name).unlink(missing_ok=True)

    def append(self, record: RoundRecord) -> None:
        """Write a round's line."""
        append(self.path / _ROUNDS, [asdict(record)])

    def records(self) -> list[RoundRecord]:
        """Read the rounds that are over, in order.

        Raises:
            FolderError: if a line is not one that was written.
        """
        file, made = self.path / _ROUNDS, []
        for line in read_lines(file, self._again):
            try:
                made.append(parsed(RoundRecord, line))
            except ValueError as error:
                raise damaged(file, f"round {len(made) + 1}: {error}", self._again) from error
        return made

    def write_model(self, parts: Iterable[Tensor]) -> None:
        """Write the final model, whose tensors are given as for `state_of`."""
        write_tensors(self.path / "model.pt", state_of(parts))

    def model(self) -> Mapping[str, Tensor]:
        """Read the final model's state dict."""
        return read_tensors(self.path / "model.pt", self._again)

    def finish(self, seconds: float) -> None:
        """Write that the run is complete.

        Args:
            seconds: wall time of the run, with what it took to start it.
        """
        write_json(self.path / "result.json", {"seconds": seconds})

    def seconds(self) -> float | None:
        """Return the wall time of a complete run; None if it is not complete."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        content = read_json(file, self._again)
        try:
            return parsed(dict[str, float], content)["seconds"]
        except (KeyError, ValueError) as error:
            raise damaged(file, error, self._again) from error

    @property
    def _again(self) -> str:
        return f"remove {self.path / 'result.json'}, and --resume begins the run again"


def state_of(parts: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return a state dict for `torch.nn.Sequential(Linear, ReLU, Linear)`.

    Args:
        parts: its four tensors, as `benchmarks.federated.runs.engine.Network.views` gives them.
    """
    return dict(zip(_ENTRIES, (part.clone() for part in parts), strict=True))


def parse(lines: Iterable[str]) -> Iterator[RoundRecord]:
    """Yield the rounds of these lines; the last one may be torn."""
    for line in lines:
        if line.endswith("\n"):
            yield RoundRecord(**json.loads(line))
