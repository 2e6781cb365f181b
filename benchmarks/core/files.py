"""The files of run folders: written whole, read with care, one way for all.

A file is written beside its place and moved there, so that whatever ends a run leaves the old
one or the new one. A line is written with its end in one go, behind the last whole line: what
a kill or a full disk left of a line is cut off, and never runs into the next. What cannot be
read or written is an error that names the file and the remedy.
"""

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .failures import FolderError
from .parsing import nan_for_null, parsed

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def unwritable(path: Path, error: OSError) -> FolderError:
    """Return the error for a file or folder that the system will not write."""
    remedy = "name another folder"
    if error.errno in FULL:
        remedy = f"free some space, or {remedy}"
    elif error.errno in _REFUSED:
        remedy = f"make it writable, or {remedy}"
    return FolderError(f"{path} cannot be written ({error.strerror or error}): {remedy}.")


def damaged(file: Path, what: object, remedy: str) -> FolderError:
    """Return the error for a file that is not what was written, with what is wrong in it."""
    return FolderError(f"{file} is damaged ({what}): {remedy}.")


def write_whole(file: Path, content: str | bytes) -> Path:
    """Write a file whole, or leave what was there, and return it; its folder is made.

    Raises:
        FolderError: if it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    beside = file.with_name(f"{file.name}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise unwritable(file, error) from error
    return file


def write_json(file: Path, content: Any) -> None:
    """Write `content` whole, or leave what was there; null stands for NaN, infinity."""
    write_whole(file, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")


def read_json(file: Path, remedy: str, kind: Any = Any) -> Any:
    """Return the content of a file that `write_json` wrote.

    Args:
        file: which.
        remedy: what to do if it is damaged.
        kind: the type of the content, whose nulls are NaN; see `parsed`.

    Raises:
        FolderError: if it is not there, not JSON, or of another type.
    """
    try:
        content = json.loads(file.read_bytes())
        return content if kind is Any else parsed(kind, nan_for_null(content))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(file, getattr(error, "strerror", None) or error, remedy) from error


def write_tensors(file: Path, content: Any) -> None:
    """Write numbers and tensors whole, or leave what was there."""
    made = BytesIO()
    torch.save(content, made)
    write_whole(file, made.getvalue())


def read_tensors(file: Path, remedy: str) -> Any:
    """Return what `write_tensors` wrote; nothing that the file holds is executed.

    Raises:
        FolderError: with the remedy, if it is not there or damaged.
    """
    try:
        return torch.load(file, weights_only=True)
    # What torch raises on such a file depends on where it is damaged.
    except Exception as error:
        what = getattr(error, "strerror", None) or "it is no file that torch has saved"
        raise damaged(file, what, remedy) from error


def append(file: Path, contents: Iterable[Any], lasting: bool = False) -> None:
    """Write a line of JSON for each of `contents` behind the last whole line.

    Args:
        file: which; made if it is not there.
        contents: of the lines; NaN and infinity are written as such.
        lasting: whether to wait until the disk has them.

    Raises:
        FolderError: if they cannot be written; the file then has none of them.
    """
    data = "".join(json.dumps(content) + "\n" for content in contents).encode()
    try:
        with file.open("ab+", buffering=0) as stream:
            end = _cut(stream)
            try:
                if stream.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if lasting:
                    os.fsync(stream.fileno())
            except OSError:
                with suppress(OSError):
                    stream.truncate(end)
                raise
    except OSError as error:
        raise unwritable(file, error) from error


def _cut(stream: BinaryIO) -> int:
    """Cut off what is left of a line that was not written to its end; return the size."""
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    stream.seek(size - 1)
    if stream.read(1) == b"\n":
        return size
    stream.seek(0)
    end = stream.read().rfind(b"\n") + 1
    stream.truncate(end)
    return end


def read_lines(file: Path, remedy: str, mark: str = "") -> Iterator[Any]:
    """Yield the content of the whole lines; a torn last one is passed over.

    Args:
        file: which; one that is not there has no lines.
        remedy: what to do if one is damaged.
        mark: lines without it are not parsed, which is what costs.

    Raises:
        FolderError: if a line is no JSON.
    """
    number = 0
    try:
        with file.open("rb") as stream:
            for line in stream:
                number += 1
                if line.endswith(b"\n") and mark.encode() in line:
                    yield json.loads(line)
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        what = getattr(error, "strerror", None) or error
        raise damaged(file, f"line {number}: {what}", remedy) from error


def finite(content: Any) -> Any:
    """Return the content with None for every float that JSON does not have."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
