"""A run folder: what was asked for, where, and one process at a time in it.

    <folder>/config.json        what was asked for
    <folder>/environment.json   versions and machine
    <folder>/.lock              held by the process whose run it is

Everything else is the command's own; `files` has how it is written.
"""

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from .failures import FolderError
from .files import read_json, unwritable, write_json
from .lock import LOCK, locked
from .parsing import parsed

# A dataclass of plain values, whose `__post_init__` refuses what is out of range.
Asked = TypeVar("Asked")

CONFIG, ENVIRONMENT = "config.json", "environment.json"
# What is there before `config.json` is.
_BEGUN = {LOCK, ENVIRONMENT, f"{ENVIRONMENT}.tmp", f"{CONFIG}.tmp"}
_PACKAGES = ("hdet", "torch", "numpy", "scikit-learn")


class CommandFolder(Generic[Asked]):
    """One run on disk; each command has a class of its own.

    Attributes:
        plan_type: the dataclass that `config.json` has the content of.
        command: as the user types it.
        packages: what a result depends on besides this library's own.
    """

    plan_type: ClassVar[Callable[..., Any]]
    command: ClassVar[str]
    packages: ClassVar[Sequence[str]] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, plan: Asked) -> None:
        """Make the folder and write what was asked for."""
        self._write_environment()
        # With this file the folder is a run's, so it comes last.
        write_json(self.path / CONFIG, asdict(plan))  # pyright: ignore[reportArgumentType]

    def plan(self) -> Asked:
        """Read back what was asked for; a `FolderError` if this is no folder of the command."""
        try:
            return parsed(self.plan_type, json.loads((self.path / CONFIG).read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            what = str(error).rstrip(".")
            raise FolderError(
                f"{self.path} is not a run folder of `{self.command}`: {what}. Give the folder "
                f"that the run printed."
            ) from error

    def environment(self) -> dict[str, Any]:
        """Read the versions and the machine."""
        file = self.path / ENVIRONMENT
        return read_json(file, "remove it, and --resume writes this machine's in its place")

    @contextmanager
    def begun(self, plan: Asked) -> Iterator[None]:
        """Make the folder and hold its lock; a `FolderError` if it is not new or is in use."""
        self.require_new()
        with locked(self.path):
            # Another run may have been here in between.
            self.require_new()
            self.create(plan)
            yield

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Hold the lock of a folder that is a run's, once all that is there can be read."""
        self.plan()
        with locked(self.path):
            if not (self.path / ENVIRONMENT).exists():
                self._write_environment()
            self.check()
            yield

    def check(self) -> None:
        """Read what is there, so that what is damaged is said before any work."""
        self.environment()

    def require_new(self) -> None:
        """Raise a `FolderError` if the folder holds anything: runs do not mix with others."""
        if not str(self.path).isprintable():
            raise FolderError(f"--out {str(self.path)!r} cannot be shown: name another folder.")
        try:
            there = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        except NotADirectoryError:
            there = {self.path.name}
        except OSError as error:
            raise unwritable(self.path, error) from error
        if CONFIG in there:
            raise FolderError(
                f"--out {self.path} holds a run already: go on with it by "
                f"`{self.command} --resume {self.path}`, or name another folder."
            )
        if there - (_BEGUN if LOCK in there else set()):
            raise FolderError(
                f"--out {self.path} is not an empty folder: name one that is not there."
            )

    def _write_environment(self) -> None:
        """Write the versions and the machine that a result depends on."""
        content = {
            "python": platform.python_version(),
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "packages": {name: version_of(name) for name in (*_PACKAGES, *self.packages)},
        }
        write_json(self.path / ENVIRONMENT, content)


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
