"""How commands that make a run folder speak of it, and end where something is wrong.

An error of the user's is one line and exit code 2, a failed run code 1, Ctrl-C code 130; the
last two say how to go on with the folder, if there is one.
"""

import re
import shlex
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from .failures import DivergedError, FolderError, MissingDataError, RunError
from .files import FULL, unwritable
from .folders import Asked, CommandFolder
from .ranks import first_process

_console = Console(stderr=True)
# Processes, or seeds: a number that was mistyped must not fill the memory before the first run.
MOST = 1000
# How `hdet.errors.require` begins: the call, its argument and the value.
_FAULT = re.compile(r"`(\w+)\((\w+)=(.*?)\)`")


def option(name: str) -> str:
    """Return a parameter of a command as it is typed: `per_round` is `--per-round`."""
    return f"--{name.replace('_', '-')}"


def in_options(message: str, name_of: Callable[[str, str], str | None]) -> str:
    """Return an error of `hdet.errors.require` in terms of a command's options.

    Args:
        message: the error; any other is returned as it is.
        name_of: (call, argument) to the parameter of the command, None if there is none.
    """

    def words(fault: re.Match[str]) -> str:
        call, argument, value = fault.groups()
        name = name_of(call, argument)
        return f"{option(name)} {value}" if name else fault[0]

    return _FAULT.sub(words, message, count=1)


@contextmanager
def errors_said(command: str, path: Path, again: str = "go on") -> Iterator[None]:
    """Say what went wrong inside, and exit.

    Args:
        command: as the user types it, as in `python -m benchmarks robustness`.
        path: the run folder.
        again: what `--resume` does.

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
        if not isinstance(error, DivergedError):
            _say_how_to_go_on(command, path, f"Once the cause is gone, {again} with")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A process that was ended while it drew leaves the cursor hidden, in the last line.
        _console.show_cursor()
        _say("\nStopped.")
        _say_how_to_go_on(command, path, f"{again.capitalize()} with")
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


def nothing_else_given(context: typer.Context, free: Collection[str]) -> None:
    """Raise if an option was given that the folder has: it says what the run is.

    Args:
        context: of the command.
        free: the options that change no run, as parameters of the command.

    Raises:
        ValueError: naming the options.
    """
    given = [
        option(name)
        for name in context.params
        if name not in free
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
