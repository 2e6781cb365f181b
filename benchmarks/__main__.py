"""`python -m benchmarks STUDY`: run a study, and keep its numbers."""

import os
import signal
import sys


def _stop(*_: object) -> None:
    """End at once, for Ctrl-C where nothing has been started that would have to be ended.

    An exception would not do: what is being imported may take it for its own.
    """
    if os.environ.get("RANK", "0") == "0":
        os.write(sys.stderr.fileno(), b"\nStopped.\n")
    os._exit(130)


def main() -> None:
    """Run the command line."""
    # Imports take seconds. In a shell's background Ctrl-C is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    from .commands import app

    app(prog_name="python -m benchmarks")


if __name__ == "__main__":
    main()
