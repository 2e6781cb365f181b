"""What the tests of the documentation read from its pages: blocks, shell lines, words."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_FOLDED = re.compile(r"<details.*?</details>", re.DOTALL)
SHELLS = ("bash", "sh", "console", "")


def name(page: Path) -> str:
    """Return a page's path from the repository's root, to name a test by."""
    return str(page.relative_to(ROOT))


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced blocks of some languages, without the indentation of their fence."""
    return [
        re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        for indent, language, code in _FENCE.findall(text)
        if language in languages
    ]


def new_side(diff: str) -> str:
    """Return the code that a diff leads to: its context and what it adds."""
    lines = [line for line in diff.splitlines() if not line.startswith("-")]
    assert all(line[:1] in ("", " ", "+") for line in lines), diff
    return "\n".join(line[1:] for line in lines)


def counted(text: str) -> int:
    """Return how many words a reader meets: tokens with a letter, outside code and folds."""
    shown = _FENCE.sub("", _FOLDED.sub("", text))
    return sum(any(c.isalpha() for c in token) for token in shown.split())


def shell_lines(text: str) -> list[str]:
    """Return the commands of a page: those of its shell blocks and those within a sentence.

    Lines that a backslash joins are one; comments and the prompt are taken away.
    """
    found = []
    for code in blocks(text, *SHELLS):
        lines = code.replace("\\\n", " ").splitlines()
        prompts = [line[2:] for line in lines if line.startswith("$ ")]
        found += prompts or lines
    found += [
        code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", _FENCE.sub("", text))
    ]
    return [re.sub(r"(^|\s)#.*", "", line).strip() for line in found]
