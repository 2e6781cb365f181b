"""The records: what a study measured, on what, and with which command."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from .files import write_json

RECORDS = Path(__file__).parents[1] / "records"


def record(name: str) -> Any:
    """Return the content of `records/<name>.json`."""
    return json.loads((RECORDS / f"{name}.json").read_text())


def write_record(name: str, command: str, content: dict[str, Any]) -> None:
    """Write what was measured to `records/<name>.json`, with what it was measured on."""
    about = {
        "command": command,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, gloo on loopback",
    }
    write_json(RECORDS / f"{name}.json", {**about, **content})
