"""The FAQ quotes messages as they are printed: each is found in the source."""

import ast
import re
from pathlib import Path

import pytest

import hdet

SOURCE = Path(hdet.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "faq.md"
# A code in the page with an ellipsis is a message, and the ellipsis what varies in it.
MESSAGES = [code for code in re.findall(r"`([^`\n]+)`", PAGE.read_text()) if "…" in code]


def text_of(node: ast.AST) -> str | None:
    """Return a text of the source, with an ellipsis for what is filled in; else None."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else None


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return all texts in the source."""
    nodes = (n for file in SOURCE.rglob("*.py") for n in ast.walk(ast.parse(file.read_text())))
    return [text for text in map(text_of, nodes) if text]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_the_faq_quotes_is_printed(message, texts):
    parts = [re.escape(part.strip()) for part in message.split("…")]
    assert any(re.search(".*".join(parts), text, re.DOTALL) for text in texts)


def test_the_faq_quotes_messages():
    assert len(MESSAGES) > 20
