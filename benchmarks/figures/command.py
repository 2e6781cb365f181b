"""`python -m benchmarks figures`: draw the pictures of the concept pages, in seconds."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

IMAGES = Path(__file__).parents[2] / "docs" / "images"
FIGURES = ("hdet", "explorer", "fedhyper", "heteroselect", "maid")


def draw(name: str, folder: Path) -> Path:
    """Draw one of `FIGURES` into a folder, and return its file."""
    # Only now: matplotlib takes seconds to import, and every other command would wait for it.
    import_module(f".{name}", __package__).draw(folder)
    return folder / f"concept-{name}.png"


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
        print(draw(name, out))
