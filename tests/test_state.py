"""Checkpoints are parsed before anything is assigned: what each entry may be."""

import math

import pytest
import torch

from hdet.state import Entries


def read(value, method, **rules):
    if method == "format":
        return Entries({"format": value}, "Thing").format(1)
    return getattr(Entries({"x": value}, "Thing"), method)("x", **rules)


@pytest.mark.parametrize(
    ("value", "method", "rules", "result"),
    [
        (3, "integer", {}, 3),
        (0.5, "number", {"low": 0, "high": 1}, 0.5),
        (3, "number", {}, 3.0),
        (math.inf, "number", {"finite": False}, math.inf),
        (True, "boolean", {}, True),
        ("a", "text", {"choices": ["a", "b"]}, "a"),
        ([1, 2.5], "numbers", {"length": 2}, [1.0, 2.5]),
        ((1, 2), "integers", {}, [1, 2]),
        ([None, "a"], "items", {}, [None, "a"]),
    ],
)
def test_a_good_entry_is_returned(value, method, rules, result):
    found = read(value, method, **rules)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "method", "rules"),
    [
        (True, "integer", {}),
        (3.0, "integer", {}),
        (-1, "integer", {}),
        (2**60, "integer", {}),
        (True, "number", {}),
        (math.nan, "number", {"finite": False}),
        (math.inf, "number", {}),
        (10**400, "number", {}),
        ("3", "number", {}),
        (torch.tensor(3.0), "number", {}),
        (2, "number", {"high": 1}),
        (0, "number", {"above": 0}),
        (1, "boolean", {}),
        (b"a", "text", {}),
        ("c", "text", {"choices": ["a", "b"]}),
        ([1, math.nan], "numbers", {}),
        ([1.0], "numbers", {"length": 2}),
        ("ab", "items", {}),
        ([[1.0]], "numbers", {}),
        (None, "entries", {}),
        ({0: 1}, "entries", {}),
        ([1.0], "tensor", {}),
        (torch.ones(2, 3), "tensor", {"shape": (3,)}),
        (torch.ones(2, 3), "tensor", {"shape": (2, 4)}),
        (torch.ones(3, dtype=torch.int64), "tensor", {}),
        (torch.ones(3), "tensor", {"dtype": torch.float64}),
        (torch.full((3,), math.nan), "tensor", {}),
        (torch.ones(3, device="meta"), "tensor", {}),
        (torch.ones(3).to_sparse(), "tensor", {}),
        (torch.ones(3, dtype=torch.complex64), "tensor", {}),
        (2, "format", {}),
    ],
)
def test_a_bad_entry_is_refused_with_its_name_and_the_remedy(value, method, rules):
    with pytest.raises(ValueError, match=r"`Thing.load_state_dict` got .*Thing.state_dict"):
        read(value, method, **rules)


def test_the_path_of_a_nested_entry_is_named():
    inner = Entries({"a": {"b": [{"c": "no"}]}}, "Thing").entries("a")
    (row,) = inner.rows("b")
    with pytest.raises(ValueError, match=r"entry `a\.b\.0\.c` = 'no', which must be a finite"):
        row.number("c")
    with pytest.raises(ValueError, match=r"a state without `a\.b\.0\.d`"):
        row.number("d")


@pytest.mark.parametrize("state", [None, [], "x", 3, torch.ones(2), {1: 2}])
def test_a_state_that_is_no_dictionary_of_names_is_refused(state):
    with pytest.raises(ValueError, match="must be a dictionary with names for keys"):
        Entries(state, "Thing")


def test_none_is_allowed_where_it_is_asked_for():
    entries = Entries({"x": None, "y": torch.ones(2)}, "Thing")
    assert entries.optional("x", entries.tensor) is None
    found = entries.optional("y", entries.tensor, shape=(None,))
    assert found is not None
    assert found.tolist() == [1, 1]


def test_another_caller_and_source_are_named():
    with pytest.raises(ValueError, match=r"^`maid\(state=\.\.\.\)` got .* `Result.state`"):
        Entries(3, "maid", call="`maid(state=...)`", source="`Result.state`")


def test_a_long_value_does_not_fill_the_message():
    with pytest.raises(ValueError, match="must be a finite number") as caught:
        read("x" * 10_000, "number")
    assert len(str(caught.value)) < 400


def test_a_list_of_tensors_is_read_item_by_item():
    entries = Entries({"m": [torch.zeros(2), torch.ones(3)], "bad": [torch.zeros(2), 1.0]}, "X")
    assert [tensor.tolist() for tensor in entries.tensors("m")] == [[0, 0], [1, 1, 1]]
    with pytest.raises(ValueError, match=r"entry `bad.1` = 1.0, which must be a tensor"):
        entries.tensors("bad")
    assert Entries({"a": 1}, "X").whole() == {"a": 1}
