"""A run folder is gone on with only if it is whole, is of this command, and is not in use."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.core.failures import FolderError
from benchmarks.core.folders import CommandFolder
from benchmarks.core.lock import locked
from benchmarks.robustness.runs import Folder
from tests.benchmarks.compare.fake_run import fake_run
from tests.benchmarks.robustness import fakes

Made = Callable[[str], CommandFolder]
Damage = Callable[[bytes], bytes | None]
NAMES = ("compare", "robustness")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CommandFolder]:
    """Return a whole folder of each command, to be left as it is."""
    base = tmp_path_factory.mktemp("wholes")
    return {
        "compare": fake_run(base / "compare", {"baseline-low": [3.3, 3.4]}, steps=20),
        "robustness": fakes.fake_run(base / "robustness", "hdet", "ddp"),
    }


@pytest.fixture
def made(wholes: dict[str, CommandFolder], tmp_path: Path) -> Made:
    """Return a function that gives a folder of a command."""

    def copy(name: str) -> CommandFolder:
        path = tmp_path / "run"
        shutil.copytree(wholes[name].path, path)
        return type(wholes[name])(path)

    return copy


def change(file: Path, damage: Damage) -> None:
    """Write in place of a file what `damage` makes of it; nothing, if that is None."""
    content = damage(file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)


def half(text: bytes) -> bytes:
    return text[: len(text) // 2]


def within(text: bytes) -> bytes:
    return half(text) + b"\n\x00garbage\n" + text[len(text) // 2 :]


def gone(text: bytes) -> None:
    return None


def put(**entries: Any) -> Damage:
    """Return what changes entries of a JSON object."""
    return lambda text: json.dumps({**json.loads(text), **entries}).encode()


def first_line(content: object) -> Damage:
    return lambda text: json.dumps(content).encode() + b"\n" + text


RUN = "runs/baseline-low/seed0"
DAMAGE: list[tuple[str, str, Damage]] = [
    ("compare", f"{RUN}/result.json", half),
    ("compare", f"{RUN}/result.json", put(more=1)),
    ("compare", f"{RUN}/result.json", put(seconds="long")),
    ("compare", f"{RUN}/metrics.jsonl", half),
    ("compare", f"{RUN}/metrics.jsonl", within),
    ("compare", f"{RUN}/metrics.jsonl", gone),
    ("compare", f"{RUN}/metrics.jsonl", first_line([1])),
    ("compare", f"{RUN}/metrics.jsonl", lambda text: text[text.index(b"\n") + 1 :]),
    ("robustness", "results.jsonl", within),
    ("robustness", "results.jsonl", first_line([1])),
    ("robustness", "results.jsonl", first_line({"a": 1})),
    ("robustness", "results.jsonl", first_line({"key": "one|ddp|sweep+9|0", "lrs": 3})),
    ("robustness", "environment.json", half),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_whole_is_gone_on_with(made: Made, name: str) -> None:
    folder = made(name)
    with folder.resumed():
        assert folder.command == f"python -m benchmarks {name}"
    # Versions that are lost can be written again.
    (folder.path / "environment.json").unlink()
    with folder.resumed():
        assert folder.environment()["packages"]["torch"] == torch.__version__


@pytest.mark.parametrize(("name", "file", "damage"), DAMAGE)
def test_what_is_damaged_is_named_with_its_remedy(
    made: Made, name: str, file: str, damage: Damage
) -> None:
    folder = made(name)
    change(folder.path / file, damage)
    message = said(folder)
    assert message.startswith(f"{folder.path / file} is damaged (")
    assert "): remove " in message
    assert "\n" not in message
    assert len(message) < 700
    # One file may be damaged in more than one line.
    for _ in range(3):
        follow(message)
        with suppress(FolderError), folder.resumed():
            return
        message = said(folder)
    pytest.fail(message)


def said(folder: CommandFolder) -> str:
    with pytest.raises(FolderError) as caught, folder.resumed():
        pytest.fail("went on")
    return str(caught.value)


def follow(message: str) -> None:
    """Do as a message says."""
    file, what = message.partition(" is damaged (")[0], message.partition("): remove ")[2]
    gone = Path(file if what.startswith("it,") else what.partition(", and ")[0])
    if what.startswith("that line"):
        lines = Path(file).read_bytes().splitlines(keepends=True)
        number = re.search(r"\(line (\d+):", message)
        del lines[int(number[1]) - 1 if number else 0]
        Path(file).write_bytes(b"".join(lines))
    elif gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()


ASKED: list[tuple[str, Damage]] = [
    *[(name, damage) for name in NAMES for damage in (half, gone, put(more=1))],
    ("compare", lambda text: b"[]"),
    ("compare", lambda text: b"\xff\xfe" + text),
    ("compare", put(replicas="x")),
    ("compare", put(steps=-5)),
    ("compare", put(spread=float("nan"))),
    ("compare", put(seeds=True)),
    ("robustness", put(starts=[1.0, float("nan")])),
    ("robustness", put(methods=["../hdet"])),
]


@pytest.mark.parametrize(("name", "damage"), ASKED)
def test_what_cannot_have_been_asked_for_is_no_run(
    made: Made, name: str, damage: Damage
) -> None:
    folder = made(name)
    change(folder.path / "config.json", damage)
    words = f"is not a run folder of `python -m benchmarks {name}`: .*Give the folder that the"
    with pytest.raises(FolderError, match=words), folder.resumed():
        pytest.fail("went on")


@pytest.mark.parametrize(
    ("name", "rows"), [("compare", "configurations"), ("robustness", "problems")]
)
def test_no_name_leads_outside(made: Made, name: str, rows: str) -> None:
    folder = made(name)
    config = folder.path / "config.json"
    raw = json.loads(config.read_text())
    for outside in ("../../x", "/tmp/x", "", ".", "a\x00b", "x" * 300, "nul"):
        raw[rows][0]["name"] = outside
        config.write_text(json.dumps(raw))
        with pytest.raises(FolderError, match="is no name for a folder"):
            folder.plan()
    if name == "compare":
        raw[rows][0]["name"] = "checkpoint"
        config.write_text(json.dumps(raw))
        with pytest.raises(FolderError, match="none may be `checkpoint`"):
            folder.plan()


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_in_a_folder_is_refused(tmp_path: Path, made: Made, name: str) -> None:
    folder = made(name)
    again, other = type(folder)(folder.path), type(folder)(tmp_path / "new")
    with folder.resumed():
        with pytest.raises(FolderError, match="run is in use by process "), again.resumed():
            pytest.fail("went on")
        with other.begun(folder.plan()):
            assert other.plan() == folder.plan()
            with pytest.raises(FolderError, match="in use by process"), other.resumed():
                pytest.fail("went on")


def test_a_run_begins_in_a_folder_of_its_own(tmp_path: Path, made: Made) -> None:
    plan = made("robustness").plan()
    # One that was left before it was a run's.
    folder = Folder(tmp_path / "new")
    with locked(folder.path):
        (folder.path / "environment.json").write_text("{")
    with folder.begun(plan):
        assert "torch" in folder.environment()["packages"]
    for name in ("thesis.txt", "environment.json"):
        path = tmp_path / f"with {name}"
        path.mkdir()
        (path / name).write_text("mine")
        with pytest.raises(FolderError, match="is not an empty folder"):
            Folder(path).begun(plan).__enter__()
        assert [file.name for file in path.iterdir()] == [name]
    for out in ("/dev/null/x", "/proc/x", "x" * 300, "a\nb", "\x01"):
        with pytest.raises(FolderError, match="name another folder"):
            Folder(tmp_path / out).begun(plan).__enter__()
