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
from benchmarks.robustness.study import Folder
from tests.benchmarks.compare.fake_run import fake_run
from tests.benchmarks.robustness import fakes


def of_compare(path: Path) -> CommandFolder:
    return fake_run(path, {"baseline-low": [3.3, 3.4]}, steps=20)


def of_robustness(path: Path) -> CommandFolder:
    return fakes.fake_run(path, "hdet", "ddp")


Made = Callable[[str], CommandFolder]
MAKERS: dict[str, Callable[[Path], CommandFolder]] = {
    "compare": of_compare,
    "robustness": of_robustness,
}


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CommandFolder]:
    """Return a whole folder of each command, to be left as it is."""
    base = tmp_path_factory.mktemp("wholes")
    return {name: make(base / name) for name, make in MAKERS.items()}


@pytest.fixture
def made(wholes: dict[str, CommandFolder], tmp_path: Path) -> Callable[[str], CommandFolder]:
    """Return a function that gives a folder of a command."""

    def copy(name: str) -> CommandFolder:
        path = tmp_path / "run"
        shutil.copytree(wholes[name].path, path)
        return type(wholes[name])(path)

    return copy


RUN = "runs/baseline-low/seed0"


def half(text: bytes) -> bytes:
    return text[: len(text) // 2]


def within(text: bytes) -> bytes:
    return half(text) + b"\n\x00garbage\n" + text[len(text) // 2 :]


def gone(text: bytes) -> None:
    return None


def put(**entries: Any) -> Callable[[bytes], bytes]:
    """Return what changes entries of a JSON object."""

    def change(text: bytes) -> bytes:
        return json.dumps({**json.loads(text), **entries}).encode()

    return change


def less(name: str) -> Callable[[bytes], bytes]:
    """Return what takes an entry from a JSON object."""
    return lambda text: json.dumps(
        {k: v for k, v in json.loads(text).items() if k != name}
    ).encode()


def first_line(content: object) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps(content).encode() + b"\n" + text


DAMAGE = [
    ("compare", f"{RUN}/result.json", half),
    ("compare", f"{RUN}/result.json", put(more=1)),
    ("compare", f"{RUN}/result.json", put(seconds="long")),
    ("compare", f"{RUN}/result.json", less("diverged")),
    ("compare", f"{RUN}/metrics.jsonl", half),
    ("compare", f"{RUN}/metrics.jsonl", within),
    ("compare", f"{RUN}/metrics.jsonl", gone),
    ("compare", f"{RUN}/metrics.jsonl", first_line([1])),
    ("compare", f"{RUN}/metrics.jsonl", lambda text: text[text.index(b"\n") + 1 :]),
    ("robustness", "results.jsonl", within),
    ("robustness", "results.jsonl", first_line({"a": 1})),
    ("robustness", "results.jsonl", first_line([1])),
    ("robustness", "results.jsonl", first_line({"key": "one|ddp|sweep+9|0"})),
    ("robustness", "results.jsonl", first_line({"key": "one|ddp|sweep+9|0", "lrs": 3})),
    ("robustness", "results.jsonl", lambda text: b"\xff\xfe\n" + text),
    *[(name, "environment.json", half) for name in MAKERS],
]  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_that_is_whole_is_gone_on_with(tmp_path: Path, made: Made, name: str) -> None:
    folder = made(name)
    with folder.resumed():
        assert folder.command == f"python -m benchmarks {name}"
    # Versions that are lost can be written again.
    (folder.path / "environment.json").unlink()
    with folder.resumed():
        assert folder.environment()["packages"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("name", "file", "damage"),
    [pytest.param(*one, id=f"{one[0]}-{one[1]}-{k}") for k, one in enumerate(DAMAGE)],
)
def test_what_is_damaged_is_named_with_its_remedy(
    made: Made, name: str, file: str, damage: Callable[[bytes], bytes | None]
) -> None:
    folder = made(name)
    path = folder.path / file
    content = damage(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    message = said(folder)
    assert message.startswith(f"{path} is damaged (")
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


ASKED = [
    *[(name, half) for name in MAKERS],
    *[(name, gone) for name in MAKERS],
    *[(name, put(more=1)) for name in MAKERS],
    *[(name, lambda text: b"[]") for name in MAKERS],
    *[(name, lambda text: b"\xff\xfe" + text) for name in MAKERS],
    ("compare", put(replicas="x")),
    ("compare", put(steps=-5)),
    ("compare", put(spread=float("nan"))),
    ("compare", put(loss_scale=float("inf"))),
    ("compare", put(seeds=True)),
    ("robustness", put(starts=[1.0, float("nan")])),
    ("robustness", put(methods=["../hdet"])),
    ("robustness", put(seeds="3")),
]


@pytest.mark.parametrize(
    ("name", "change"), [pytest.param(*one, id=f"{one[0]}-{k}") for k, one in enumerate(ASKED)]
)
def test_what_cannot_have_been_asked_for_is_no_run(
    made: Made, name: str, change: Callable[[bytes], bytes | None]
) -> None:
    folder = made(name)
    config = folder.path / "config.json"
    content = change(config.read_bytes())
    config.unlink()
    if content is not None:
        config.write_bytes(content)
    words = f"is not a run folder of `python -m benchmarks {name}`: .*Give the folder that the"
    with pytest.raises(FolderError, match=words), folder.resumed():
        pytest.fail("went on")


OUTSIDE = ["../../x", "/tmp/x", "", ".", "a\x00b", "x" * 300, "nul", "checkpoint"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_configuration_leads_outside(tmp_path: Path, made: Made, name: str) -> None:
    folder = made("compare")
    before = sorted(tmp_path.rglob("*"))
    raw = json.loads((folder.path / "config.json").read_text())
    raw["configurations"][0]["name"] = name
    (folder.path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(FolderError, match="no name for a folder|may be `checkpoint`"):
        folder.plan()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", ""])
def test_no_problem_leads_outside(tmp_path: Path, made: Made, name: str) -> None:
    folder = made("robustness")
    raw = json.loads((folder.path / "config.json").read_text())
    raw["problems"][0]["name"] = name
    (folder.path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(FolderError, match="is no name for a folder"):
        folder.plan()


@pytest.mark.parametrize("name", MAKERS)
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


def test_a_folder_that_was_left_before_it_was_a_runs(tmp_path: Path, made: Made) -> None:
    plan = made("robustness").plan()
    folder = Folder(tmp_path / "new")
    with locked(folder.path):
        (folder.path / "environment.json").write_text("{")
    with folder.begun(plan):
        assert "torch" in folder.environment()["packages"]


@pytest.mark.parametrize("name", ["thesis.txt", "environment.json"])
def test_a_folder_with_other_files_is_not(tmp_path: Path, made: Made, name: str) -> None:
    plan = made("robustness").plan()
    path = tmp_path / "new"
    path.mkdir()
    (path / name).write_text("mine")
    with pytest.raises(FolderError, match="is not an empty folder"):
        Folder(path).begun(plan).__enter__()
    assert [file.name for file in path.iterdir()] == [name]


@pytest.mark.parametrize("out", ["/dev/null/x", "/proc/x", "x" * 300, "a\nb", "\x01"])
def test_a_place_that_cannot_be_a_folder(tmp_path: Path, made: Made, out: str) -> None:
    plan = made("robustness").plan()
    with pytest.raises(FolderError, match="name another folder"):
        Folder(tmp_path / out).begun(plan).__enter__()
