"""The commands behind `hdet`; imported once their packages are known to be there.

Nothing here imports torch before a demo runs: help and errors come at once.
"""

from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import __version__

if TYPE_CHECKING:
    from .report import Page

Schedule = Literal["cosine", "one-cycle"]
Out = Annotated[
    Path | None, typer.Option(help="Folder for the report.", show_default="runs/demo-<time>")
]
Seed = Annotated[int, typer.Option(help="Of weights, data and search.", min=0)]
_SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="Hyperparameters that tune themselves while the model trains.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)
demo = typer.Typer(context_settings=_SETTINGS)
app.add_typer(demo, name="demo")


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


@demo.callback(invoke_without_command=True)
def _learning_rate(
    context: typer.Context,
    out: Out = None,
    steps: Annotated[int, typer.Option(help="Of each run.", min=2, max=4000)] = 300,
    schedule: Annotated[Schedule, typer.Option(help="Of the learning rate.")] = "cosine",
    seed: Seed = 0,
) -> None:
    """Show what the library does: Explorer beside plain DDP, from right and wrong rates.

    A small transformer learns real text on four local processes, from a learning rate that is
    right, 30 times too low and 30 times too high: two minutes on two cores. The folder that is
    printed at the end has report.html. `federated` and `bilevel` show the other two parts.
    """

    def run(console: Console) -> "Page":
        from .demo import learning_rate

        settings = learning_rate.Settings(steps, schedule, seed)
        return learning_rate.run(settings, console)

    if context.invoked_subcommand is None:
        _show("demo", run, out, "cli", ["plotly"])


@demo.command()
def federated(out: Out = None, seed: Seed = 0) -> None:
    """FedHyper and client selection beside FedAvg, from right and wrong client rates."""

    def run(console: Console) -> "Page":
        from .demo import federated

        return federated.run(seed, console)

    _show("demo federated", run, out, "bilevel,cli", ["plotly", "numpy", "sklearn"])


@demo.command()
def bilevel(out: Out = None, seed: Seed = 0) -> None:
    """Penalties by MAID beside grid search, at equal cost."""

    def run(console: Console) -> "Page":
        from .demo import bilevel

        return bilevel.run(seed, console)

    _show("demo bilevel", run, out, "bilevel,cli", ["plotly", "numpy", "sklearn"])


def _show(
    name: str, run: Callable[[Console], "Page"], out: Path | None, extras: str, needs: list[str]
) -> None:
    """Run a demo, print its table and write its report; say what is wrong in one line."""
    from .demo.ranks import RankError
    from .demo.showing import DemoError

    time = f"{datetime.now():%Y%m%d-%H%M%S}"
    folder = out or Path("runs") / f"{name.replace(' ', '-')}-{time}"
    console = Console()
    try:
        if missing := [package for package in needs if find_spec(package) is None]:
            raise DemoError(f'needs {", ".join(missing)}: pip install "hdet[{extras}]"')
        # Made before the demo, which takes minutes.
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DemoError(f"--out {folder} is not empty: name another folder.")
        page = run(console)
        table = Table(*page.header)
        for one in page.runs:
            table.add_row(one.name, *one.cells, style="bold" if one.ours else "")
        console.print(table)
        console.print(page.closing, highlight=False)
        console.print(f"Report: {page.write(folder)}", highlight=False, soft_wrap=True)
    except (DemoError, RankError, OSError) as error:
        said = f"[red]hdet {name}:[/red] {escape(str(error))}"
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, RankError) else 2) from None
