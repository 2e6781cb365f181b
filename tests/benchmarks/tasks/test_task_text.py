"""The text task: which files, which windows, and what it says when there are none."""

import sysconfig

import pytest
import torch

from benchmarks.core.failures import MissingDataError
from benchmarks.tasks import get_task, text
from hdet.seeding import generator


def as_bytes(batch) -> list[bytes]:
    inputs, targets = batch
    return [
        bytes([*given, after[-1]])
        for given, after in zip(inputs.tolist(), targets.tolist(), strict=True)
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_no_window_comes_twice_in_a_pass_and_none_is_of_held_out_files(text_folder, seed):
    task = get_task("text", text_folder)
    held = {w for batch in task.held_out() for w in as_bytes(batch)}
    stream = [
        window
        for step in range(task.max_steps(2) or 0)
        for rank in range(2)
        for window in as_bytes(task.batch(seed, step, rank, 2))
    ]
    assert len(stream) > 10_000
    assert len(set(stream)) == len(stream)
    names = text._held_out_names(text._texts(text_folder, (".py", ".txt", ".md")))
    marks = {f"file{int(n.split('/')[1].split('.')[0]):02d}".encode() for n in names}
    assert len(held) == text.HELD_OUT_BATCHES * task.batch_size
    # Lines are 19 bytes: each window of 65 has at least two whole ones.
    assert not any(mark in window for window in stream for mark in marks)
    assert all(mark in b"".join(held) for mark in marks)


def test_targets_are_the_inputs_one_byte_on(text_folder):
    inputs, targets = get_task("text", text_folder).batch(0, 0, 0, 2)
    assert inputs.shape == targets.shape == (4, text.CONTEXT)
    assert (inputs[:, 1:] == targets[:, :-1]).all()


def test_only_source_files_outside_tests_and_packages_are_read(tmp_path):
    for name in ("b.py", "a/c.py", "test/d.py", "a/tests/e.py", "site-packages/f.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "g.txt").write_text("g")
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    assert list(text._texts(tmp_path, (".py",)).items()) == [
        ("a/c.py", b"a/c.py"),
        ("b.py", b"b.py"),
    ]


def test_a_byte_cannot_see_those_after_it(text_folder):
    task = get_task("text", text_folder)
    model = task.model(generator(0))
    inputs, _ = task.batch(0, 0, 0, 2)
    changed = inputs.clone()
    changed[:, 40:] = 0
    with torch.no_grad():
        before, after = model(inputs), model(changed)
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5)
    assert not torch.allclose(before[:, 40:], after[:, 40:], atol=1e-2)


def test_a_python_without_source_is_told_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(MissingDataError, match=r"0 \.py files.*curl -L https") as caught:
        get_task("text")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("count", "words"), [(10, "with 10 bytes in all. It needs 1000000"), (2_000_000, "several")]
)
def test_little_text_or_a_single_file_is_refused(tmp_path, count, words):
    (tmp_path / "a.txt").write_text("x" * count)
    with pytest.raises(MissingDataError, match=words):
        get_task("text", tmp_path)
