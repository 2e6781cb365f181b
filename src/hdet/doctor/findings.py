"""One line of a diagnosis."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        level: "ok"; "note" for what is supported and finds less; "wrong" for what has to be
            mended before a run.
        subject: what it is about, in a word.
        words: what was found.
    """

    level: Level
    subject: str
    words: str


def ok(subject: str, words: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", subject, words)


def note(subject: str, words: str) -> Finding:
    """Return what is supported, and finds less."""
    return Finding("note", subject, words)


def wrong(subject: str, words: str) -> Finding:
    """Return what has to be fixed."""
    return Finding("wrong", subject, words)
