"""Checkpoints in the middle of a run, so that a killed comparison goes on where it was.

Replicas differ between syncs, and some configurations never average: each rank saves
its own state to `checkpoint-<step>.rank<r>.pt`. Once all have, rank 0 names the step in
`checkpoint.json`, and only then removes the files of other steps. So whenever the run
is killed, that file names a checkpoint which is whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from ..core.files import damaged, read_json, read_tensors, write_json, write_tensors


class Stateful(Protocol):
    """Model, optimizer, scheduler, log: what hands out its state and takes it back."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `torch.load(..., weights_only=True)` reads back."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Go on from what `state_dict` returned."""
        ...


class Checkpoints:
    """The checkpoints of one run; at most one is on disk, but for the moment of change.

    Args:
        path: the folder of the run.
        parts: what is saved, by name; loaded in this order.
    """

    def __init__(self, path: Path, parts: Mapping[str, Stateful]) -> None:
        self._path = path
        self._parts = parts
        self._newest = path / "checkpoint.json"
        self._anew = f"remove {path}, and --resume does that run again"

    def step(self) -> int:
        """Return the step of the checkpoint on disk, 0 if there is none. Local."""
        if not self._newest.exists():
            return 0
        step = read_json(self._newest, self._anew, dict[str, int]).get("step", 0)
        if step < 1:
            raise damaged(self._newest, "it names no step", self._anew)
        return step

    def load(self, step: int) -> None:
        """Set all parts to this rank's state after `step`. Local."""
        file = self._file(step)
        state = read_tensors(file, self._anew)
        try:
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
        # What a model, an optimizer or a scheduler says of a state that is not its own.
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged(file, error, self._anew) from error

    def save(self, step: int) -> None:
        """Save every rank's state after `step` in place of an earlier. Collective."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        write_tensors(self._file(step), state)
        dist.barrier()
        if dist.get_rank() == 0:
            write_json(self._newest, {"step": step})
            self._remove_files(but=step)

    def remove(self) -> None:
        """Remove the checkpoint of a run that has its result. For rank 0."""
        self._newest.unlink(missing_ok=True)
        self._remove_files()

    def _file(self, step: int) -> Path:
        return self._path / f"checkpoint-{step}.rank{dist.get_rank()}.pt"

    def _remove_files(self, but: int | None = None) -> None:
        for file in self._path.glob("checkpoint-*.rank*"):
            if not file.name.startswith(f"checkpoint-{but}."):
                file.unlink()


def interval(steps: int, sync_every: int) -> int:
    """Return every how many steps to save: a multiple of T, about four times a run."""
    return max(1, round(steps / 4 / sync_every)) * sync_every
