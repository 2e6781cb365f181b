"""The `hdet` command.

Only this module and `commands` know the terminal: arguments in, progress and tables
out, and every error of the user's in one line with its remedy.
"""

import os
import signal
import sys
from importlib.util import find_spec

# What the command imports on top of the library, some of it only for the report: a run
# of hours must not end at a missing package.
_PACKAGES = ("typer", "rich")


def main() -> None:
    """Run the command line; the entry point of the installed `hdet` script."""
    # Imports take seconds. In a shell's background Ctrl-C is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        sys.exit(
            f"The hdet command needs {', '.join(missing)}, which the library itself "
            f'does not: pip install "hdet[cli]"'
        )
    from .commands import app

    app(prog_name="hdet")


def _stop(*_: object) -> None:
    """End at once, for Ctrl-C where nothing has been started that would have to be ended.

    An exception would not do: what is being imported may take it for its own.
    """
    if os.environ.get("RANK", "0") == "0":
        os.write(sys.stderr.fileno(), b"\nStopped.\n")
    os._exit(130)
