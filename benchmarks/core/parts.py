"""What a page is made of, for HTML and Markdown alike."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under a head; the first column names the row.

    Attributes:
        head: of the columns.
        rows: as many texts each.
        strong: places of the rows that stand out.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """A picture by its name, with what it shows in words."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """A title, and what is under it in order: paragraphs, tables and pictures."""

    title: str
    parts: Sequence[str | Table | Picture]


def markdown(section: Section, pictures: dict[str, str]) -> list[str]:
    """Return a section's lines.

    Args:
        section: what to write.
        pictures: address of each picture by its name; others are left out.
    """
    lines = [f"## {section.title}", ""]
    for part in section.parts:
        if isinstance(part, str):
            lines += [*wrapped(part), ""]
        elif isinstance(part, Table):
            lines += [*_table(part), ""]
        elif part.name in pictures:
            lines += [f"![{part.text}]({pictures[part.name]})", ""]
    return lines


def wrapped(paragraph: str) -> list[str]:
    """Return a paragraph in lines, as the documentation has them."""
    return textwrap.wrap(paragraph, 96, break_long_words=False, break_on_hyphens=False)


def _table(table: Table) -> list[str]:
    lines = [_row(table.head), "|" + "---|" * len(table.head)]
    for i, row in enumerate(table.rows):
        name = f"**{row[0]}**" if i in table.strong else row[0]
        lines.append(_row([name, *row[1:]]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
