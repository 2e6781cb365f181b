"""Reports as one HTML file each: a template, its values, and the plots inside it."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from .files import write_whole


def write_page(
    file: Path,
    template: str,
    plots: Mapping[str, Path],
    filters: Mapping[str, Callable[..., str]],
    **values: Any,
) -> Path:
    """Write a page whole, or leave what was there.

    Args:
        file: where to.
        template: its name among the package's templates.
        plots: PNG files, given to the template as base64 text under `plots`.
        filters: the template's own.
        values: what else the template uses.

    Returns:
        The file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("benchmarks"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    pictures = {
        name: base64.b64encode(plot.read_bytes()).decode() for name, plot in plots.items()
    }
    page = environment.get_template(template).render(plots=pictures, **values)
    return write_whole(file, page)
