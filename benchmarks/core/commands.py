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
from typing import Annotated, Any, TypeVar

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
AnyFolder = TypeVar("AnyFolder", bound=CommandFolder[Any])

Out = Annotated[
    Path | None, typer.Option(help="Run folder to make; default runs/, study and time.")
]
Resume = Annotated[Path | None, typer.Option(help="Go on with this run folder.")]
Processes = Annotated[
    int | None, typer.Option(min=1, max=MOST, help="Runs at once; default one per core.")
]


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
def run_folder(
    context: typer.Context,
    kind: type[AnyFolder],
    plan: Callable[[], Asked],
    check: Callable[[Asked], object],
) -> Iterator[tuple[AnyFolder, Asked]]:
    """Hold the folder that a command's `--out` or `--resume` names, made or gone on with.

    Errors inside end the command in words, see `errors_said`. Under torchrun only the first
    process holds the folder.

    Args:
        context: of a command with `--out`, `--resume`, and perhaps `--processes`.
        kind: the class of the folder.
        plan: makes what is asked for of the command's other options.
        check: raises if what is asked for cannot be, before anything is written.
    """
    resume, out = context.params["resume"], context.params["out"]
    command, moment = kind.command, f"{datetime.now():%Y%m%d-%H%M%S}"
    path = Path(resume or out or f"runs/{command.split()[-1]}-{moment}")
    folder = kind(path)
    with errors_said(command, path):
        if resume is None:
            asked = plan()
        else:
            _refuse_other_options(context)
            asked = folder.plan()
        check(asked)
        if not first_process():
            yield folder, asked
            return
        with folder.begun(asked) if resume is None else folder.resumed():
            try:
                yield folder, asked
            except FolderError as error:
                raise RunError(str(error)) from error
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise RunError(str(unwritable(path, error))) from error


def _refuse_other_options(context: typer.Context) -> None:
    """Raise if an option was given that the folder has: it says what the run is."""
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


def _say(markup: str) -> None:
    # A path that is broken at the window's edge cannot be copied.
    _console.print(markup, highlight=False, soft_wrap=True)


def _say_how_to_go_on(command: str, path: Path, words: str) -> None:
    if first_process() and (path / "config.json").exists():
        _say(f"{words}: {command} --resume {escape(shlex.quote(str(path)))}")
