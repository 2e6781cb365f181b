"""The `hdet` command: answers Ctrl-C from the first moment, and says what is not installed."""

import os
import signal
import sys
from importlib.util import find_spec

# What the command line itself imports.
_PACKAGES = ("typer", "rich")


def main() -> None:
    """Run the command line; the entry point of the installed `hdet` script."""
    # In a shell's background Ctrl-C is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        print(
            f"The hdet command needs {', '.join(missing)}, which the library itself does not: "
            f'pip install "hdet[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    from .commands import app

    app(prog_name="hdet")


def _stop(*_: object) -> None:
    """End at once. Whoever has started processes ends them first, in a handler before this one.

    An exception would not do: what is being imported may take it for its own.
    """
    if sys.stdout.isatty():
        # A table that was being drawn has hidden the cursor.
        os.write(sys.stdout.fileno(), b"\x1b[?25h")
    os.write(sys.stderr.fileno(), b"\nStopped.\n")
    os._exit(130)
