"""What mkdocs does to a page before it renders it: two pages are written elsewhere.

The changelog is the repository's own file; the commands' options are told by typer.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page."""
    if page.file.src_uri == "changelog.md":
        return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    if page.file.src_uri == "api/commands.md":
        told = ["typer", "hdet.commands", "utils", "docs", "--name", "hdet", "--title", "hdet"]
        done = subprocess.run([sys.executable, "-m", *told], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"typer cannot tell the commands: {done.stderr}")
        return markdown + done.stdout.partition("\n")[2]
    return markdown
