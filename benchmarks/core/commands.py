"""How commands that make a run folder speak of it, and end where something is wrong.

An error of the user's is one line and exit code 2, a failed run code 1, Ctrl-C code 130; the
last two say how to go on with the folder, if there is one.
"""

import shlex
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .failures import FolderError, MissingDataError, RunError
from .files import FULL, unwritable
from .folders import Asked, CommandFolder
from .ranks import first_process

_console = Console(stderr=True)
# Processes, or seeds: a number that was mistyped must not fill the memory before the first run.
MOST = 1000

Out = Annotated[
    Path | None, typer.Option(help="Run folder to make; default runs/, study and time.")
]
Resume = Annotated[Path | None, typer.Option(help="Go on with this run folder.")]
Processes = Annotated[
    int | None, typer.Option(min=1, max=MOST, help="Runs at once; default one per core.")
]


def new_path(study: str) -> Path:
    """Return where a run is written if its user names no folder."""
    return Path("runs") / f"{study}-{datetime.now():%Y%m%d-%H%M%S}"


def names(option: str, text: str, known: Collection[str]) -> list[str]:
    """Return the names that an option lists, in the order of `known`; none if it is empty.

    Raises:
        ValueError: naming those that are not known.
    """
    given = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(given - set(known)):
        raise ValueError(
            f"--{option}: there is no {', '.join(unknown)}: choose from {', '.join(known)}."
        )
    return [name for name in known if name in given]


def asked_for(
    context: typer.Context, folder: CommandFolder[Asked], plan: Callable[[], Asked]
) -> Asked:
    """Return the plan of a folder that is gone on with, or the one that the options make.

    Args:
        context: of a command with `--resume`, and perhaps `--processes`.
        folder: the run's.
        plan: makes it of the command's other options.

    Raises:
        ValueError: if `--resume` comes with options that say what the run is.
    """
    if context.params["resume"] is None:
        return plan()
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in ("resume", "processes")
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ValueError(
            f"--resume goes on with what the folder holds, and {', '.join(given)} would "
            f"change it: leave that out, or begin a new run."
        )
    return folder.plan()


@contextmanager
def errors_said(command: str, path: Path) -> Iterator[None]:
    """Say what went wrong inside, and exit.

    Args:
        command: as the user types it, as in `python -m benchmarks robustness`.
        path: the run folder.

    Raises:
        typer.Exit: in place of what was raised inside.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        # What was started must be ended in order. Where Ctrl-C is ignored, it stays so.
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    except (ValueError, MissingDataError) as error:
        if first_process():
            _say(f"[red]{command}:[/red] {escape(str(error))}")
        raise typer.Exit(2) from None
    except RunError as error:
        _console.show_cursor()
        _say(f"\n[red]{escape(str(error))}[/red]")
        _say_how_to_go_on(command, path, "Once the cause is gone, go on with")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A process that was ended while it drew leaves the cursor hidden, in the last line.
        _console.show_cursor()
        _say("\nStopped.")
        _say_how_to_go_on(command, path, "Go on with")
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ready(folder: CommandFolder[Asked], plan: Asked, resume: bool) -> Iterator[None]:
    """Hold a run's folder, made or gone on with; only where this process may speak.

    Args:
        folder: the run's.
        plan: what is asked for, of a folder that is to be made.
        resume: whether the folder is there.

    Raises:
        FolderError: naming what is in the way, and the remedy.
        RunError: if the folder is what a run that has begun could not go on for.
    """
    if not first_process():
        yield
        return
    with folder.resumed() if resume else folder.begun(plan):
        try:
            yield
        except FolderError as error:
            raise RunError(str(error)) from error
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise RunError(str(unwritable(folder.path, error))) from error


def _say(markup: str) -> None:
    # A path that is broken at the window's edge cannot be copied.
    _console.print(markup, highlight=False, soft_wrap=True)


def _say_how_to_go_on(command: str, path: Path, words: str) -> None:
    if first_process() and (path / "config.json").exists():
        _say(f"{words}: {command} --resume {escape(shlex.quote(str(path)))}")
