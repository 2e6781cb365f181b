"""Which records a user means, and how one that still grows is followed."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from .record import Record, RecordError

_CHUNK = 1 << 20
_BEGINNING = 1 << 16  # bytes: the header, and when the first lines were written


class Follower:
    """Reads a record as far as it has been written, as often as asked.

    Args:
        path: of the record, which may not be there yet.

    Attributes:
        record: what was read so far; empty until there is a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.record, self._read, self._rest, self._file = Record(self.path), 0, b"", None
        self._begins = b""

    def read(self) -> bool:
        """Take in what is new, and return whether there was anything.

        Raises:
            RecordError: if it is no record.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return False
        with file:
            status = os.fstat(file.fileno())
            # Another file in its place, or one that was emptied, is another run. Its inode
            # may be the old one's again, and it may be the longer one by now.
            begins = file.read(_BEGINNING)
            replaced = self._file not in (None, status.st_ino)
            replaced |= not begins.startswith(self._begins) or status.st_size < self._read
            if replaced:
                self._forget()
            self._file = status.st_ino
            if status.st_size == self._read:
                return False
            self._begins = begins
            file.seek(self._read)
            try:
                self.record.add(self._lines(file))
            except RecordError:
                self._forget()  # so that it is told again as long as it is so
                raise
        return True

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield whole lines; the rest is kept until its end is there."""
        while chunk := file.read(_CHUNK):
            self._read += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            yield from (line for line in lines if line.strip())
            if len(self._rest) >= _CHUNK and not self.record.header:
                yield self._rest  # no record begins with such a line


def read_record(path: Path) -> Record:
    """Return a record as it stands.

    Raises:
        RecordError: if it cannot be read, or has nothing to show.
    """
    follower = Follower(path)
    try:
        there = follower.read()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}.") from None
    if not there:
        raise RecordError(f"{path} is empty: the run has not written anything yet.")
    if not len(follower.record):
        if not follower.record.header:
            raise RecordError(f"{path} is not the record of a run: it has no whole line.")
        raise RecordError(f"{path} has a header alone: the run has not trained a step yet.")
    return follower.record


def records_in(runs: Sequence[Path]) -> list[Record]:
    """Return the records that files and folders hold, in their order.

    Raises:
        RecordError: if a file is no record, or a folder holds none.
    """
    found = {}
    for run in runs:
        if run.is_dir():
            found |= dict(_of_folder(run))
        elif run.is_file():
            found[run] = read_record(run)
        elif run.exists():
            raise RecordError(f"{run} is no file: give the file of Explorer(log=...).")
        else:
            raise RecordError(f"there is no {run}: give the file of Explorer(log=...).")
    return list(found.values())


def _of_folder(folder: Path) -> Iterator[tuple[Path, Record]]:
    """Yield the records of a folder; what else has their ending is passed over."""
    why = ""
    found = False
    for path in files_in(folder):
        try:
            yield path, read_record(path)
            found = True
        except RecordError as error:
            why = f" {str(error)[0].upper()}{str(error)[1:]}"
    if not found:
        raise RecordError(
            f"{folder} holds no record of a run: records end in .jsonl, as that of "
            f'Explorer(log="runs/x.jsonl").{why}'
        )


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that may be records."""
    return sorted(path for path in folder.rglob("*.jsonl") if path.is_file())


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return short names that tell records apart: the file's, with folders where needed."""
    parts = [path.with_suffix("").parts for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len({*names}) == len(names):
            return names
    return [str(path) for path in paths]
