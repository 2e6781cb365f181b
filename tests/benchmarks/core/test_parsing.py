"""What a folder holds has the types that were written, and names that stay inside it."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmarks.core.parsing import nan_for_null, parsed, require_name, require_names


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Outer:
    count: int
    rate: float
    good: bool = True
    text: str | None = None
    rows: list[Inner] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)
    rest: Any = None


def test_what_was_written_is_read_back() -> None:
    raw = {"count": 3, "rate": 1, "text": None, "rows": [{"name": "a"}], "means": {"x": 0.5}}
    found = parsed(Outer, {**raw, "rest": [1, {}]})
    assert found == Outer(3, 1.0, True, None, [Inner("a")], {"x": 0.5}, [1, {}])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": "3"}, "count is '3', not a whole number"),
        ({"count": True}, "count is True, not a whole number"),
        ({"count": math.nan}, "count is nan, not a whole number"),
        ({"rate": None}, "rate is None, not a number"),
        ({"good": 1}, "good is 1, not true or false"),
        ({"text": 5}, "text is 5, not text"),
        ({"rows": {}}, "rows is {}, not a list"),
        ({"rows": [{"name": "a"}, {"name": 1}]}, r"rows\[1\]\.name is 1, not text"),
        ({"rows": [{}]}, r"rows\[0\]\.name is missing"),
        ({"means": {"x": "y"}}, r"means\.x is 'y', not a number"),
        ({"more": 1}, "'more' is not known"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        parsed(Outer, {"count": 3, "rate": 0.5, **change})
    with pytest.raises(ValueError, match=r"^it is \[\], not an object$"):
        parsed(Outer, [])


@pytest.mark.parametrize(
    "name",
    ["../../x", "..", ".", "", "/etc", "a/b", "a\\b", "a\x00b", "a\nb", " a", "a ", ".hidden"]
    + ["x" * 101, "con", "NUL.txt", "com1", "ends.", "~", "-rf", "café", "a:b"],
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    for good in ("hdet-full", "sweep+1", "a", "0.5_x", "x" * 100):
        require_name("Configuration", "name", good)
    with pytest.raises(ValueError, match=r"`Configuration\(name=.* is no name for a folder"):
        require_name("Configuration", "name", name)


def test_names_are_known_and_come_once() -> None:
    require_names("Plan", "tasks", ["tv", "foe"], {"foe": 1, "tv": 2})
    for names in ([], ["tv", "tv"], ["nosuch"]):
        with pytest.raises(ValueError, match="each once: choose from foe, tv"):
            require_names("Plan", "tasks", names, {"foe": 1, "tv": 2})


def test_nulls_of_a_whole_file_are_nan_again() -> None:
    assert str(nan_for_null({"a": None, "b": [1, None]})) == "{'a': nan, 'b': [1, nan]}"
