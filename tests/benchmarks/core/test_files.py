"""Whatever ends a run, a file is the old one or the new one, and a line is whole."""

import json
import math
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from benchmarks.core.failures import FolderError
from benchmarks.core.files import (
    append,
    read_json,
    read_lines,
    read_tensors,
    write_json,
    write_tensors,
    write_whole,
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@contextmanager
def small_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 100 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.json"
    write_json(file, {"b": [1, {"c": math.inf}], 2: None})
    before = file.read_text()
    assert json.loads(before, parse_constant=refuse) == {"b": [1, {"c": None}], "2": None}
    with pytest.raises(TypeError):
        write_json(file, {"b": object()})
    assert file.read_text() == before
    assert [x.name for x in file.parent.iterdir()] == ["a.json"]


def test_on_a_full_disk_the_old_file_stays_and_the_remedy_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_whole(file, "old")
    words = r"a.txt cannot be written \(.*\): free some space"
    with pytest.raises(FolderError, match=words), small_disk():
        write_whole(file, "n" * 101)
    assert file.read_text() == "old"
    assert [x.name for x in tmp_path.iterdir()] == ["a.txt"]


def test_a_place_that_takes_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("mine")
    for inside in ("a file", "/dev/null", "/proc/nowhere"):
        with pytest.raises(FolderError, match="x.json cannot be written .* name another"):
            write_json(tmp_path / inside / "x.json", {})
    assert (tmp_path / "a file").read_text() == "mine"


def test_lines_are_appended_one_behind_the_other(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    assert list(read_lines(file, "")) == []
    append(file, [{"a": 1}, {"a": math.nan}])
    append(file, [{"a": 2}], lasting=True)
    assert file.read_text() == '{"a": 1}\n{"a": NaN}\n{"a": 2}\n'


@pytest.mark.parametrize("left", ['{"a"', '{"a": 1, "b": 2}', "\x00" * 9000])
def test_what_a_kill_left_of_a_line_never_runs_into_the_next(tmp_path: Path, left: str) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"a": 0}\n' + left)
    assert list(read_lines(file, "")) == [{"a": 0}]
    append(file, [{"a": 3}])
    assert file.read_text() == '{"a": 0}\n{"a": 3}\n'
    file.write_text(left)
    append(file, [{"a": 3}])
    assert file.read_text() == '{"a": 3}\n'


def test_a_line_that_does_not_fit_leaves_nothing_of_itself(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    append(file, [{"a": "x" * 60}])
    whole = file.read_text()
    words = "lines.jsonl cannot be written .*free some space"
    with pytest.raises(FolderError, match=words), small_disk():
        append(file, [{"a": "y" * 60}])
    assert file.read_text() == whole
    append(file, [{"b": 1}])
    assert list(read_lines(file, "")) == [{"a": "x" * 60}, {"b": 1}]


def test_a_device_that_is_full_is_named(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").symlink_to("/dev/full")
    with pytest.raises(FolderError, match=r"lines.jsonl cannot .*\(No space left on device\)"):
        append(tmp_path / "lines.jsonl", [{"a": 1}])


@pytest.mark.parametrize("line", [b"\x00garbage", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_a_broken_line_is_named_with_the_remedy(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(FolderError, match=r"jsonl is damaged \(line 2: .*\): mend it\.$"):
        list(read_lines(file, "mend it"))


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe{}", b"[" * 100_000])
def test_a_broken_file_is_named_with_the_remedy(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FolderError, match=r"a.json is damaged \(.*\): mend it\.$"):
        read_json(file, "mend it")


def test_tensors_are_read_back_and_broken_ones_refused_wherever_cut(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    write_tensors(file, {"x": torch.arange(100.0), "n": 3})
    whole = file.read_bytes()
    read = read_tensors(file, "mend it")
    assert (read["n"], read["x"].tolist()) == (3, list(range(100)))
    for size in range(0, len(whole), 97):
        file.write_bytes(whole[:size])
        with pytest.raises(FolderError, match=r"a.pt is damaged \(.*\): mend it\.$"):
            read_tensors(file, "mend it")


def test_nothing_that_a_file_holds_is_executed(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save(Touch(), tmp_path / "a.pt")
    with pytest.raises(FolderError, match="a.pt is damaged"):
        read_tensors(tmp_path / "a.pt", "mend it")
    assert not (tmp_path / "executed").exists()
