"""The movielens task: both file formats, the order of time, and the installed wheel."""

from importlib import metadata

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.core.failures import MissingDataError
from benchmarks.tasks import get_task, movielens
from benchmarks.tasks.movielens import MovieLensTask


def stream(task) -> list[torch.Tensor]:
    """Return the whole stream of two replicas in order, as columns."""
    steps = range(task.max_steps(2))
    both = [[task.batch(0, step, rank, 2) for rank in range(2)] for step in steps]
    return [
        torch.cat([torch.stack([one[i], other[i]], dim=1).flatten() for one, other in both])
        for i in range(3)
    ]


def test_the_stream_is_the_file_in_the_order_of_time(u_data):
    task = get_task("movielens", u_data)
    rows = [line.split() for line in u_data.read_text().splitlines()]
    rows.sort(key=lambda row: int(row[3]))  # stable: equal times stay in file order
    users, items, ratings = (np.array(column) for column in list(zip(*rows, strict=True))[:3])
    dense = [np.unique(column, return_inverse=True)[1] for column in (users, items)]
    seen = stream(task)
    count = len(seen[0])
    assert 2700 - 32 < count <= 2700
    for got, expected in zip(seen, (*dense, ratings), strict=True):
        assert (got.numpy() == expected[:count].astype(int)).all()
    held = torch.cat([rating for _, _, rating in task.held_out()])
    assert (held.numpy() == ratings[2700:].astype(int)).all()


def test_both_formats_and_their_folders_give_the_same_ratings(u_data, inter):
    tasks = [get_task("movielens", path) for path in (u_data, u_data.parent, inter)]
    tasks.append(get_task("movielens", str(inter.parent)))
    columns = [stream(task) for task in tasks]
    for other in columns[1:]:
        assert all(torch.equal(a, b) for a, b in zip(columns[0], other, strict=True))


def test_ids_are_dense_over_the_whole_file(u_data):
    task = MovieLensTask(u_data)
    parts = [stream(task), *task.held_out()]
    for i, count in enumerate((task._users, task._items)):
        assert torch.equal(torch.cat([p[i] for p in parts]).unique(), torch.arange(count))


def test_the_loss_is_the_sum_of_both_tasks(u_data):
    task = get_task("movielens", u_data)

    class Told(nn.Module):
        def __init__(self, *outputs):
            super().__init__()
            self.outputs = outputs

        def forward(self, user, item):
            return self.outputs

    rating = torch.tensor([5.0, 1.0])
    batch = (torch.zeros(2).long(), torch.zeros(2).long(), rating)
    right = Told(torch.tensor([50.0, -50.0]), rating - 3.5)
    assert task.loss(right, batch).item() == pytest.approx(0, abs=1e-6)
    expected = np.log(2) + (1.5**2 + 2.5**2) / 2
    unsure = Told(torch.zeros(2), torch.zeros(2))
    assert task.loss(unsure, batch).item() == pytest.approx(expected)


def install(inter, monkeypatch, record: str) -> None:
    """Make the folder of `inter` look like a site-packages with recbole installed."""
    site = inter.parents[3]
    info = site / "recbole-1.2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
    (info / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(site)


def test_the_installed_wheel_is_found_without_importing_it(inter, monkeypatch):
    (inter.parents[2] / "__init__.py").write_text("raise RuntimeError('imported')")
    record = f"recbole/__init__.py,,\n{inter.relative_to(inter.parents[3])},,\n"
    install(inter, monkeypatch, record)
    assert movielens._installed() == inter
    assert get_task("movielens").max_steps(1) == 2700 // 16


def test_a_wheel_without_the_file_is_told_apart(inter, monkeypatch):
    install(inter, monkeypatch, "recbole/__init__.py,,\n")
    with pytest.raises(MissingDataError, match="has none among its 1 files"):
        get_task("movielens")


def test_a_missing_wheel_or_path_is_named_with_the_command(tmp_path, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(MissingDataError, match="pip install --no-deps recbole"):
        get_task("movielens")
    with pytest.raises(MissingDataError, match=r"/absent.* pip install --no-deps"):
        get_task("movielens", tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", 1),
        ("1\t2\t3\t4\n1\t2\n", 2),
        ("1,2,3,4\n", 1),
        ("user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\tx\t4\n", 2),
        ("user_id:token\trating:float\n", 1),
    ],
)
def test_unreadable_lines_are_numbered(tmp_path, content, line):
    path = tmp_path / "u.data"
    path.write_text(content)
    with pytest.raises(MissingDataError, match=f"line {line} of .*u.data"):
        get_task("movielens", path)
