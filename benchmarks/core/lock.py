"""One run in a folder at a time.

The lock is the system's own on a file, `flock`: it ends with the process that holds it, however
that comes, so none is ever left behind. What the file says is for people.
"""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .failures import FolderError
from .files import unwritable

try:
    import fcntl
except ImportError:
    # Windows has no such lock; there, two runs in one folder are not noticed.
    fcntl = None

LOCK = ".lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is made if it is not there.

    Args:
        path: the folder.

    Raises:
        FolderError: if another process holds it, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        _take(file, path)
        yield
    finally:
        os.close(file)


def _take(file: int, path: Path) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 100).decode(errors="replace").strip() or "another process"
            raise FolderError(
                f"{path} is in use by {holder}: wait until that run is over, or end it."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise unwritable(path, error) from error
            warnings.warn(
                f"The file system of {path} has no locks: begin no second run in this folder "
                f"while this one is under way.",
                stacklevel=3,
            )
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise unwritable(path, error) from error
