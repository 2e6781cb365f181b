"""The `hdet` command.

Only this module knows the terminal: arguments in, progress and tables out, and every error
of the user's in one line with its remedy.
"""

import sys


def main() -> None:
    """Run the command line; the entry point of the installed `hdet` script."""
    try:
        from .commands import app
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("hdet"):
            raise
        sys.exit(
            f"The hdet command needs {missing}, which the library itself does not: "
            f'pip install "hdet[bench]".'
        )
    app()
