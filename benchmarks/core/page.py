"""The pages of docs/results/: prose by people, numbers from the records.

Each study that has a page has a template `page.md.j2`, in which the prose stands as prose, and
a module `analysis` whose function `values()` returns what the template names, read from the
study's record and nothing else. A sentence that says what a number means is true of one record:
`{{ holds(a < b) }}` beside it renders as nothing, and fails where the record says otherwise.

    python -m benchmarks pages           # write docs/results/
    python -m benchmarks pages --check   # fail if a page is not what its record gives
"""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

DOCS = Path(__file__).parents[2] / "docs" / "results"
IMAGES = DOCS.parent / "images"
# The page of each study, and the front page; a study without one appears on another's.
PAGES = {
    "overview": "index.md",
    "averaging": "averaging.md",
    "bilevel": "bilevel.md",
    "compare": "compare.md",
    "converging": "converging.md",
    "cost": "cost.md",
    "federated": "federated.md",
    "penalties": "penalties.md",
    "rate_rules": "learning-rate-rules.md",
    "remedies": "remedies.md",
    "robustness": "robustness.md",
    "scale": "scale.md",
    "soak": "soak.md",
}


class PageError(Exception):
    """A page says what its record does not."""


def render(study: str) -> str:
    """Return a study's page, from its template and its record.

    Args:
        study: a key of `PAGES`.

    Raises:
        PageError: if a sentence does not hold of the record.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(f"benchmarks.{study}", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"fmt": fmt, "interval": lambda e, spec: e.interval(spec)}
    environment.filters |= {"table": table}
    environment.globals["holds"] = holds
    values = import_module(f"benchmarks.{study}.analysis").values()
    return environment.get_template("page.md.j2").render(values)


def write(studies: list[str], check: bool) -> list[str]:
    """Write pages, or with `check` only compare them; return those that differ."""
    different = []
    for study in studies:
        page, text = DOCS / PAGES[study], render(study)
        if not page.exists() or page.read_text() != text:
            different.append(page.name)
            if not check:
                page.write_text(text)
    return different


def fmt(value: Any, spec: str = "") -> str:
    """Return a number or an `Estimate` by a format of Python's; a dash if there is none."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "–" if missing else format(value, spec)


def table(rows: pd.DataFrame, bold: str | None = None) -> str:
    """Return a table of texts in Markdown, without its index.

    Args:
        rows: as they are to be shown; column names are the head.
        bold: the first column's entry of the row that is to stand out.
    """
    lines = [[str(name).strip() for name in rows.columns], ["---"] * len(rows.columns)]
    for first, *rest in rows.itertuples(index=False):
        lines.append([f"**{first}**" if first == bold else str(first), *map(str, rest)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace(
        "| --- " * len(rows.columns) + "|", "|---" * len(rows.columns) + "|"
    )


def holds(claim: bool) -> str:
    """Return nothing if the claim of the sentence before it is true of the record.

    Raises:
        PageError: if it is not.
    """
    if not claim:
        raise PageError("a sentence of this page no longer holds of the record: read it anew.")
    return ""
