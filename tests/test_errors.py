"""A message names the value that broke a rule, and stays a line of text whatever it is."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from hdet.errors import Limits, require, require_choice, require_number, require_whole, short

BATCHES = [(torch.ones(64, 8), torch.ones(64))] * 1000


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("cannot be shown")


class ManyLines:
    def __repr__(self) -> str:
        return "ManyLines(\n  first,\n  second\n)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        ("adam", "'adam'"),
        ([1e-3, None], "[0.001, None]"),
        (torch.tensor(2.0), "tensor(2.)"),
        (torch.ones(3, 4), "<Tensor of shape (3, 4), torch.float32>"),
        (nn.Parameter(torch.ones(2)), "<Parameter of shape (2,), torch.float32>"),
        (ManyLines(), "ManyLines( first, second )"),
    ],
)
def test_a_value_is_shown_as_it_would_be_typed(value: object, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    "value",
    [BATCHES, "x" * 10_000, nn.Sequential(*[nn.Linear(2, 2)] * 50), 10**1000, Broken()],
    ids=["a whole loader", "a long text", "a model", "a huge number", "one that fails"],
)
def test_a_value_of_any_size_is_one_short_line(value: object) -> None:
    with pytest.raises(ValueError, match="^`probe") as caught:
        require(False, "probe", "loader", value, "must be a DataLoader", "make one")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    assert message.endswith(")` must be a DataLoader: make one.")


@pytest.mark.parametrize(
    ("limits", "rule", "good", "bad"),
    [
        ({}, "must be a finite number", [-1, 0.5, np.float32(2)], [math.nan, math.inf, "1"]),
        ({"finite": False}, "must be a number", [-math.inf, math.inf], [math.nan, None, True]),
        ({"above": 0}, "must be finite and above 0", [1e-300], [0, -1, math.inf, 10**400]),
        ({"low": 0}, "must be finite and at least 0", [0, Fraction(1, 3)], [-1e-300, [0]]),
        ({"above": 0, "finite": False}, "must be above 0", [math.inf], [0, 10**400, math.nan]),
        ({"low": 0, "below": 1}, "must lie in [0, 1)", [0, 0.999], [1, -0.1, torch.ones(2)]),
        ({"above": 0, "high": 1}, "must lie in (0, 1]", [1, 0.1], [0, 1.1, math.inf]),
        ({"low": 1, "high": 2}, "must lie in [1, 2]", [1, 2], [0.999, 2.001]),
        ({"high": 3}, "must be finite and at most 3", [3, -1e9], [3.1, -math.inf]),
        ({"below": 3}, "must be finite and below 3", [2.9], [3]),
    ],
)
def test_the_limits_of_a_number_and_their_words(limits, rule, good, bad):
    for value in good:
        require_number("f", "x", value, "try 1", **limits)
    for value in bad:
        with pytest.raises(ValueError, match=r"^`f\(x=") as caught:
            require_number("f", "x", value, "try 1", **limits)
        assert str(caught.value).endswith(f")` {rule}: try 1.")
    assert str(Limits(**limits)) == rule


def test_whole_numbers_and_choices():
    for good in (1, np.int64(7), 2**70):
        require_whole("f", "n", good, "count", low=1)
    for bad in (0, 1.0, True, "1", None, math.nan):
        with pytest.raises(
            ValueError, match=r"` must be a whole number of at least 1: count\."
        ):
            require_whole("f", "n", bad, "count", low=1)
    require_choice("f", "mode", "eval", ("eval", "train"), "leave it out")
    for unknown in ("test", None, 1):
        with pytest.raises(ValueError, match=r'` must be "eval" or "train": leave it out\.$'):
            require_choice("f", "mode", unknown, ("eval", "train"), "leave it out")
    with pytest.raises(ValueError, match=r' must be "a", "b" or "c": '):
        require_choice("f", "mode", "d", ("a", "b", "c"), "leave it out")
