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
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is made if it is not there.

    Raises:
        FolderError: if another process holds it, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        stream = (path / LOCK).open("ab+", buffering=0)
    except OSError as error:
        raise unwritable(path, error) from error
    with stream:
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read(100).decode(errors="replace").strip() or "another process"
            raise FolderError(
                f"{path} is in use by {holder}: wait until that run is over, or end it."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise unwritable(path, error) from error
            warnings.warn(
                f"The file system of {path} has no locks: begin no second run in this folder "
                f"while this one is under way.",
                stacklevel=3,
            )
        try:
            stream.truncate(0)
            stream.write(f"process {os.getpid()}\n".encode())
        except OSError as error:
            raise unwritable(path, error) from error
        yield
