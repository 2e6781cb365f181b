"""The commands behind `hdet`; imported once their packages are known to be there."""

from typing import Annotated

import typer

from . import __version__

app = typer.Typer(
    help="Hyperparameters that tune themselves while the model trains.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"hdet {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show it."),
    ] = False,
) -> None:
    pass
