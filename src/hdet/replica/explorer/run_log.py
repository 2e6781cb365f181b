"""The record of a run, for `Explorer(log=...)`: one line of JSON for each sync.

The first process appends whole lines, so a run that is killed leaves at most its last one
incomplete, and one that is resumed goes on in the same file. Its first line is a header; after
a resume there is another, and steps may stand there twice: the later ones count. No record is
worth a run: what cannot be written is warned of once, and training goes on. So is another
Explorer that writes to the same file.
"""

import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...errors import where
from .rate_search import SEARCHING

_DIGITS = 5
# All that changes within the search.
_SEARCHED = ("step", "phase", "base_lr", "replica_lr", "loss", "tried")
FORMAT = 1
_NAME = "Explorer"


class RunLog:
    """Appends what an Explorer has decided to a file.

    Args:
        path: of the file; its folder is made.
        header: what is the same in all lines.
        writes: whether this process is the one that writes.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any], writes: bool) -> None:
        # The training loop may change its directory.
        self._path, self._header = Path(path).absolute(), header
        self.writes = writes
        self._begun = self._failed = self._shared = False
        self._end = 0  # of the file, in bytes, after this one's last line
        self._decision = ""

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Append a line for what `Explorer.metrics()` returned. Local.

        Args:
            metrics: as they are after a sync or a step of the search; besides, where known,
                `found`, the `loss` of a step of the climb, and what a trial `tried`.
        """
        if not self.writes or self._failed:
            return
        searching = metrics["phase"] in SEARCHING
        record = {k: x for k, x in metrics.items() if not searching or k in _SEARCHED}
        if metrics["decision"] != self._decision:
            self._decision = record["decision"] = metrics["decision"]
        else:
            record.pop("decision", None)
        lines = [{"time_ms": time.time_ns() // 1_000_000, **record}]
        if not self._begun:
            lines.insert(0, {"hdet": version("hdet"), "format": FORMAT, **self._header})
        try:
            texts = [json.dumps(_rounded(line), separators=(",", ":")) for line in lines]
            self._append("".join(text + "\n" for text in texts))
        except (OSError, TypeError, ValueError) as error:
            self._failed = True
            warnings.warn(
                f"{where()}`{_NAME}(log={str(self._path)!r})` can no longer be written to: "
                f"{error}. Training goes on without it.",
                stacklevel=4,
            )

    def _append(self, text: str) -> None:
        if not self._begun:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            if not self._begun and file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                # A line that was cut off stays one of its own.
                text = text if file.read() == b"\n" else "\n" + text
            shared = self._begun and file.tell() > self._end
            file.write(text.encode())
            self._end = file.tell()
        self._begun = True
        if shared and not self._shared:
            self._shared = True
            warnings.warn(
                f"{where()}`{_NAME}(log={str(self._path)!r})` must be a file of its own: "
                f"another Explorer writes to it, too. Give each run its own.",
                stacklevel=5,
            )


def _rounded(value: Any) -> Any:
    """Return the same with few digits, and null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(x) for x in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        # Of a beta near one, what it lacks of one counts.
        more = -math.floor(math.log10(1 - value)) if 0.99 < value < 1 else 0
        return float(f"{value:.{_DIGITS + more}g}")
    return value
