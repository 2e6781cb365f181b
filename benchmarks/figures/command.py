"""`python -m benchmarks figures`: draw the pictures of the concept pages, in seconds."""

from pathlib import Path
from typing import Annotated

import typer

from . import explorer, fedhyper, hdet, heteroselect, maid
from .drawing import IMAGES

FIGURES = {
    "hdet": hdet.draw,
    "explorer": explorer.draw,
    "fedhyper": fedhyper.draw,
    "heteroselect": heteroselect.draw,
    "maid": maid.draw,
}


def command(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(FIGURES)}; default all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to draw into.")] = IMAGES,
) -> None:
    """Draw the pictures of docs/concepts/."""
    if unknown := [name for name in names or [] if name not in FIGURES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(FIGURES)}.")
    for name in names or FIGURES:
        FIGURES[name](out)
        print(out / f"concept-{name}.png")
