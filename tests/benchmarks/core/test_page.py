"""Pages are what their records give, and a sentence that no longer holds is an error."""

import pandas as pd
import pytest

from benchmarks.core.page import PAGES, PageError, fmt, holds, table, write
from benchmarks.core.statistics import estimate


@pytest.mark.parametrize("study", PAGES)
def test_a_page_is_what_its_record_gives(study: str) -> None:
    assert write([study], check=True) == []


def test_a_sentence_that_no_longer_holds_is_an_error() -> None:
    assert holds(1 < 2) == ""
    with pytest.raises(PageError, match="no longer holds of the record"):
        holds(2 < 1)


def test_numbers_that_are_not_there_are_dashes() -> None:
    assert fmt(1.25, ".1f") == "1.2"
    assert fmt(estimate([1.0, 3.0]), ".1f") == "2.0 ± 1.0"
    assert fmt(None, ".1f") == fmt(float("nan"), ".1f") == "–"


def test_a_table_in_markdown() -> None:
    rows = pd.DataFrame({"who": ["a", "b"], "loss": ["1.0", "2.0"]})
    assert table(rows, bold="b") == "| who | loss |\n|---|---|\n| a | 1.0 |\n| **b** | 2.0 |"
