"""A denoiser on disk: numbers and tensors, written whole or not at all."""

import os
from pathlib import Path

import torch

from ...errors import require
from ...state import Entries
from .terms import Theta

_FORMAT = "hdet.bilevel.denoising 1"
Name = str | os.PathLike[str]


def write(path: Name, kind: str, theta: Theta) -> None:
    """Write a denoiser of class `kind` as a file that `read` reads; atomic."""
    beside = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        torch.save({"format": _FORMAT, "kind": kind, "theta": theta}, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read(path: Name, kind: str) -> Entries:
    """Return the entries of the theta that a denoiser of class `kind` wrote, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or of another kind.
    """
    call, shown = f"{kind}.load", os.fspath(path)
    with open(path, "rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:
            # Damaged bytes may raise any exception.
            content = None
    content = content if isinstance(content, dict) else {}
    texts = isinstance(content.get("format"), str) and isinstance(content.get("kind"), str)
    good = texts and content["format"] == _FORMAT
    rule = "must be a whole file that `save` of a denoiser wrote"
    require(good, call, "path", shown, rule, "fit and save again")
    found = content["kind"]
    rule, remedy = f"must hold a {kind}, not a {found}", f"write {found}.load(...)"
    require(found == kind, call, "path", shown, rule, remedy)
    source = f"`{kind}.save`"
    whole = Entries(content, kind, call=f"`{call}({shown!r})`", source=source)
    return whole.entries("theta")
