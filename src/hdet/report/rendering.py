"""A page in one file: a figure with all of plotly in it, and words; it loads nothing.

Plotly's script is packed, two megabytes instead of five, and the browser unpacks it.
"""

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

# The figure of a page that has none yet.
EMPTY: Mapping[str, Any] = {"x": "", "panels": [], "runs": [], "status": "", "look": ""}
_WEB = Path(__file__).with_name("web")


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_WEB),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def words(template: str, **values: Any) -> Markup:
    """Return a template's words; every value is escaped."""
    return Markup(_templates().get_template(template).render(**values))


def page(
    title: str, figure: Mapping[str, Any], text: Markup, footer: str, live: bool = False
) -> str:
    """Return a whole page.

    Args:
        title: its heading.
        figure: as from `figure.figure`.
        text: what stands below it, as from `words`.
        footer: its last line; may be empty.
        live: whether a server goes on to send news.
    """
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title,
            figure={"status": "", "look": "", **figure},
            words=text,
            footer=footer,
            live=live,
            style=_file("page.css"),
            script=_file("picture.js") + _file("page.js"),
            data=Markup(as_json(figure).replace("<", "\\u003c")),
            plotly=_plotly() if live or figure["runs"] else "",
        )
    )


def as_json(value: Any) -> str:
    """Return JSON without spaces; what is not finite must be null by now."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _file(name: str) -> Markup:
    return Markup((_WEB / name).read_text(encoding="utf-8"))


@cache
def _plotly() -> Markup:
    """Return plotly's script, compressed, in letters. Plotly itself takes long to import."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    script = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    return Markup(base64.b64encode(gzip.compress(script.read_bytes(), 9, mtime=0)).decode())
