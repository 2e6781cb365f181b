"""Runs that are too short to find anything are warned of, where the length is known."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as schedulers

import hdet
from hdet.replica.explorer.checks import schedule_length, warn_of_short_schedule
from hdet.replica.paper.checks import warn_of_few_intervals
from tests.helpers import small_model

LENGTHS = {
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, 1000), 1000),
    "one cycle": (lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=700), 700),
    "polynomial": (lambda o: schedulers.PolynomialLR(o, 500), 500),
    "warm-up, then cosine": (
        lambda o: schedulers.SequentialLR(
            o, [schedulers.LinearLR(o, 0.1), schedulers.CosineAnnealingLR(o, 900)], [100]
        ),
        1000,
    ),
    "warm-up, then for ever": (
        lambda o: schedulers.SequentialLR(
            o, [schedulers.LinearLR(o, 0.1), schedulers.ExponentialLR(o, 0.99)], [100]
        ),
        None,
    ),
    "exponential": (lambda o: schedulers.ExponentialLR(o, 0.99), None),
    "a callable": (lambda o: lambda step: 1.0, None),
    "none": (lambda o: None, None),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_length_of_a_schedule_is_known_where_it_says_so(name):
    make, length = LENGTHS[name]
    optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
    assert schedule_length(make(optimizer)) == length


def cosine(length):
    optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
    return schedulers.CosineAnnealingLR(optimizer, length)


@pytest.mark.parametrize(
    ("length", "sync_every", "warmup", "searches", "words"),
    [
        (
            1000,
            100,
            0,
            True,
            r"sync_every=100\)` has fewer than 10 syncs.*1000 steps.*room for 9, too few",
        ),
        (290, 20, 0, True, "290 steps leaves room for 9, too few"),
        (1000, 120, 0, False, "fewer than 10 syncs.*room for 8.*Use sync_every=10"),
        (50, 9, 0, False, "room for 5, too few.*Use sync_every=1, about 1 % of the run"),
        (239, 2, 0, True, "then warms up for 40 to 80.*239 steps leaves 239.*at least 4 times"),
        (1000, 2, 800, True, "1000 steps leaves 200.*Train for longer, or use search=False"),
        (50, 2, 60, True, "leaves 0:"),
    ],
)
def test_too_short_a_schedule_is_warned_of_with_a_remedy(
    length, sync_every, warmup, searches, words
):
    with pytest.warns(UserWarning, match=words):
        warn_of_short_schedule(cosine(length), sync_every, warmup, searches)


@pytest.mark.parametrize(
    ("length", "sync_every", "warmup", "searches"),
    [
        (1120, 100, 0, True),
        (240, 12, 0, True),
        (300, 3, 0, True),
        (1000, 30, 700, False),
        (1000, 100, 0, False),
    ],
)
def test_a_schedule_that_is_long_enough_is_not(length, sync_every, warmup, searches):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_short_schedule(cosine(length), sync_every, warmup, searches)


def test_whole_numbers_of_numpy_are_taken_as_pythons():
    optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
    explorer = hdet.Explorer(optimizer, sync_every=np.int64(3), warmup_steps=np.int64(2))  # pyright: ignore[reportArgumentType]
    facts = explorer._facts()
    assert json.dumps([facts["sync_every"], facts["warmup_steps"]]) == "[3, 2]"


def test_the_papers_controller_is_warned_of_too_few_acts():
    with pytest.warns(UserWarning, match="acts at only 8 syncs.*Use model_sync_interval=8"):
        warn_of_few_intervals(1000, 200, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_few_intervals(1000, 200, 40)
