"""The text task: which files, which windows, and what it says when there are none."""

import sysconfig

import pytest

from benchmarks.core.failures import MissingDataError
from benchmarks.tasks import get_task, text


def as_bytes(batch) -> list[bytes]:
    inputs, targets = batch
    return [
        bytes([*given, after[-1]])
        for given, after in zip(inputs.tolist(), targets.tolist(), strict=True)
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_no_window_comes_twice_in_a_pass(text_folder, seed):
    task = get_task("text", text_folder)
    seen = [
        window
        for step in range(task.max_steps(2) or 0)
        for rank in range(2)
        for window in as_bytes(task.batch(seed, step, rank, 2))
    ]
    assert len(seen) > 10_000
    assert len(set(seen)) == len(seen)


def test_held_out_files_are_not_in_the_stream(text_folder):
    task = get_task("text", text_folder)
    held = {w for batch in task.held_out() for w in as_bytes(batch)}
    stream = {
        window
        for step in range(task.max_steps(1) or 0)
        for window in as_bytes(task.batch(0, step, 0, 1))
    }
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
    import torch

    from hdet.seeding import generator

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


def test_a_folder_with_little_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("too little")
    with pytest.raises(MissingDataError, match="with 10 bytes in all. It needs 1000000"):
        get_task("text", tmp_path)


def test_a_single_large_file_cannot_be_both_trained_on_and_held_out(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 2_000_000)
    with pytest.raises(MissingDataError, match="in several files"):
        get_task("text", tmp_path)
