"""The run folder of `hdet federate`: what a run writes, and all that its report is made from.

    <folder>/config.json       what was asked for
    <folder>/environment.json  versions and machine
    <folder>/rounds.jsonl      one line per round, in order: a `RoundRecord`
    <folder>/model.pt          the final model, a state dict; see `state_of`
    <folder>/result.json       written last; without, unfinished
    <folder>/app, flower.log   with Flower: the app that ran, and what Flower said
    <folder>/summary.json, plots/*.png, report.html

A round's line is written at once and flushed, so that others can follow a run; of a torn
last line the reader takes no notice. The lines of a diverged run hold `NaN`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..records import environment, write_json
from .run import RoundRecord
from .settings import Settings

ENGINES = ("in-process", "flower")
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


class Folder:
    """One federated run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, plan: Plan) -> None:
        """Make the folder and write what was asked for."""
        self.path.mkdir(parents=True, exist_ok=True)
        versions = environment()
        if plan.engine == "flower":
            versions["packages"] |= {name: _version(name) for name in ("flwr", "ray")}
        write_json(self.path / "environment.json", versions)
        write_json(self.path / "config.json", asdict(plan))

    def plan(self) -> Plan:
        """Read back what was asked for.

        Raises:
            ValueError: if this is not a run folder.
        """
        try:
            raw = json.loads((self.path / "config.json").read_text())
            return Plan(Settings(**raw["settings"]), raw["engine"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.path} is not a run folder of `hdet federate`: {error}. Give the "
                f"folder that the run printed."
            ) from error

    def environment(self) -> dict[str, Any]:
        """Read the versions and the machine."""
        return json.loads((self.path / "environment.json").read_text())

    def begin(self) -> None:
        """Forget the rounds of a run that was stopped: the same ones come again."""
        for name in ("result.json", "model.pt", "rounds.jsonl"):
            (self.path / name).unlink(missing_ok=True)

    def append(self, record: RoundRecord) -> None:
        """Write a round's line."""
        with (self.path / "rounds.jsonl").open("a") as lines:
            lines.write(json.dumps(asdict(record)) + "\n")

    def records(self) -> list[RoundRecord]:
        """Read the rounds that are over, in order."""
        file = self.path / "rounds.jsonl"
        return list(parse(file.read_text().splitlines(True))) if file.exists() else []

    def write_model(self, parts: Iterable[Tensor]) -> None:
        """Write the final model, whose tensors are given as for `state_of`."""
        beside = self.path / "model.tmp"
        torch.save(state_of(parts), beside)
        os.replace(beside, self.path / "model.pt")

    def model(self) -> Mapping[str, Tensor]:
        """Read the final model's state dict."""
        return torch.load(self.path / "model.pt", weights_only=True)

    def finish(self, seconds: float) -> None:
        """Write that the run is complete.

        Args:
            seconds: wall time of the run, with what it took to start it.
        """
        write_json(self.path / "result.json", {"seconds": seconds})

    def seconds(self) -> float | None:
        """Return the wall time of a complete run; None if it is not complete."""
        file = self.path / "result.json"
        return json.loads(file.read_text())["seconds"] if file.exists() else None


def state_of(parts: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return a state dict for `torch.nn.Sequential(Linear, ReLU, Linear)`.

    Args:
        parts: its four tensors, as `hdet.bench.federated.engine.Network.views` gives them.
    """
    return dict(zip(_ENTRIES, (part.clone() for part in parts), strict=True))


def parse(lines: Iterable[str]) -> Iterator[RoundRecord]:
    """Yield the rounds of these lines; the last one may be torn."""
    for line in lines:
        if line.endswith("\n"):
            yield RoundRecord(**json.loads(line))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
