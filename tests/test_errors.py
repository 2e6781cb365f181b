"""A message names the value that broke a rule, and stays a line of text whatever it is."""

import pytest
import torch
from torch import nn

from hdet.errors import require, short

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
