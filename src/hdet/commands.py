"""The commands behind `hdet`; imported once their packages are known to be there.

Nothing here imports torch before a demo runs: help and errors come at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import __version__

app = typer.Typer(
    help="Hyperparameters that tune themselves while the model trains.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Demo(str, Enum):
    """The demos; each is a module of `hdet.demo`."""

    __str__ = str.__str__

    learning_rate = "learning-rate"
    federated = "federated"
    bilevel = "bilevel"


def _version(asked: bool) -> None:
    if asked:
        print(f"hdet {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    which: Annotated[Demo, typer.Argument(help="What to show.")] = Demo.learning_rate,
    out: Annotated[
        Path | None, typer.Option(help="Folder to make.", show_default="runs/demo-<time>")
    ] = None,
    length: Annotated[
        float, typer.Option(help="Of the runs; 2 is twice as long.", min=0.1, max=10)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of weights, data and search.", min=0)] = 0,
) -> None:
    """Show what the library does, with the usual way beside it, and write a report.

    learning-rate: Explorer beside plain DDP from a learning rate that is right, 30 times too
    low and 30 times too high; a small transformer on real text, four processes, two minutes on
    two cores. federated: FedHyper and client selection beside FedAvg, from such client rates.
    bilevel: a penalty for each feature by MAID beside grid search, at equal cost.
    """
    from .demo.ranks import RankError
    from .demo.showing import DemoError

    folder = out or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    needs = ["plotly"] if which is Demo.learning_rate else ["plotly", "numpy", "sklearn"]
    console = Console()
    try:
        if missing := [name for name in needs if find_spec(name) is None]:
            raise DemoError(f'needs {", ".join(missing)}: pip install "hdet[bilevel,cli]"')
        # Made before the demo, which takes minutes.
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DemoError(f"--out {folder} is not empty: name another folder.")
        # Only Explorer leaves records.
        records = {"folder": folder} if which is Demo.learning_rate else {}
        run = import_module(f".demo.{which.name}", __package__).run
        page = run(console, seed, length, **records)
        table = Table(*page.header)
        for run in page.runs:
            table.add_row(run.name, *run.cells, style="bold" if run.ours else "")
        console.print(table)
        console.print(page.closing, highlight=False)
        _say(console, f"Report: {page.write(folder)}")
        if records:
            words = f"Explorer's runs, more closely: hdet report {folder}"
            _say(console, words)
    except (DemoError, RankError, OSError) as error:
        said = f"[red]hdet demo:[/red] {escape(str(error))}"
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RankError) else 2) from None


@app.command()
def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:FUNCTION]", help="Makes your hdet.Explorer, without arguments."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps of the run, if its schedule has none.", min=1),
    ] = None,
) -> None:
    """Look at processes, devices and your own run before it is started.

    Run it as the run itself: torchrun --nproc-per-node 8 -m hdet doctor train:make. All
    processes are looked at and one reports. FUNCTION is called on each of them, in a process
    group that is there already; it wraps the model, and returns the Explorer. Exit code 1 if
    anything has to be fixed.
    """
    if steps is not None and target is None:
        raise typer.BadParameter("needs MODULE:FUNCTION", param_hint="--steps")
    from .doctor.company import meet
    from .doctor.diagnosis import diagnose

    try:
        company = meet()
    except Exception as error:
        said = f"[red]hdet doctor:[/red] the processes do not meet: {escape(str(error))}"
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    found = diagnose(company, target, steps)
    wrong = sum(finding.level == "wrong" for finding in found)
    if company.rank == 0:
        console, styles = Console(), {"ok": "green", "note": "yellow", "wrong": "red"}
        for one in found:
            line = (
                f"[{styles[one.level]}]{one.level:<6}[/] {one.subject:<10} {escape(one.words)}"
            )
            console.print(line, highlight=False, soft_wrap=True)
        problems = "problem" if wrong == 1 else "problems"
        closing = f"{wrong} {problems} to fix." if wrong else "Nothing is wrong."
        console.print(f"[bold]{closing}[/]", highlight=False)
    company.leave()
    raise typer.Exit(1 if wrong else 0)


_Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Record of Explorer(log=...), or a folder of them."),
]


@app.command()
def report(
    runs: _Runs,
    out: Annotated[
        Path | None, typer.Option(help="Page to write.", show_default="beside the record")
    ] = None,
) -> None:
    """Write the page of a run, or of several side by side.

    It is one file that loads nothing: what Explorer did with the learning rate, the loss below
    it, and the rate to take home.
    """
    with _refusals("report"):
        _require("plotly", "jinja2")
        from .report.files import records_in
        from .report.report import page_beside, write_report

        records = records_in(runs)
        out = out or page_beside(runs[0])
        try:
            write_report(records, out)
        except OSError as error:
            remedy = f"{out} cannot be written ({error.strerror}): name another file by --out."
            raise OSError(remedy) from None
    _say(Console(), f"Report: {out}")


@app.command()
def show(runs: _Runs) -> None:
    """Show a run in the terminal."""
    with _refusals("show"):
        from .report.files import names_of, records_in
        from .report.terminal import show as print_runs

        records = records_in(runs)
        print_runs(Console(), records, names_of([record.path for record in records]))


@app.command()
def watch(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Record of Explorer(log=...), or a folder of them."),
    ],
    port: Annotated[
        int, typer.Option(help="On 127.0.0.1; 0 for any that is free.", min=0, max=65535)
    ] = 7321,
) -> None:
    """Show the page of a run while it goes on, in your browser; Ctrl-C ends it.

    The record need not be there yet. On a remote machine forward the port first:
    ssh -L 7321:127.0.0.1:7321 HOST.
    """
    with _refusals("watch"):
        _require("plotly", "jinja2")
        from .report.watch import serve

        try:
            server = serve(run, port)
        except OSError as error:
            remedy = f"--port {port} cannot be used ({error.strerror}): try --port 0."
            raise OSError(remedy) from None
        address = f"http://127.0.0.1:{server.server_port}"
        words = f"Watching {run} at {address} (Ctrl-C ends it)"
        _say(Console(), words)
        server.serve_forever()


def _say(console: Console, words: str) -> None:
    """Print a line as it is: a path may hold what looks like markup."""
    console.print(words, markup=False, highlight=False, soft_wrap=True)


def _require(*packages: str) -> None:
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ValueError(f'needs {", ".join(missing)}: pip install "hdet[cli]"')


@contextmanager
def _refusals(command: str) -> Iterator[None]:
    """Say in one line what cannot be, and end with exit code 2."""
    try:
        yield
    except (OSError, ValueError) as error:
        said = f"[red]hdet {command}:[/red] {escape(str(error))}"
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
