"""The `hdet` command.

Only this module and `commands` know the terminal: arguments in, progress and tables
out, and every error of the user's in one line with its remedy.
"""

import sys
from importlib.util import find_spec

# What the command imports on top of the library, some of it only for the report: a run
# of hours must not end at a missing package.
_PACKAGES = ("typer", "rich", "numpy", "matplotlib", "jinja2")


def main() -> None:
    """Run the command line; the entry point of the installed `hdet` script."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        sys.exit(
            f"The hdet command needs {', '.join(missing)}, which the library itself "
            f'does not: pip install "hdet[bench]"'
        )
    try:
        from .commands import app
    except KeyboardInterrupt:
        sys.exit(130)
    app(prog_name="hdet")
