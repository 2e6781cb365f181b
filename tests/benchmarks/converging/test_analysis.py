"""What the page says of a record whose answers are known."""

import pytest

from benchmarks.converging.analysis import CONTROL, EXPERIMENT, place, regret, table


def row(arm: str, start: float, ends: list[float]) -> dict:
    runs = [{"held_out": end, "steps": [5, 10], "lrs": [3 * start, start]} for end in ends]
    return {"arm": arm, "start": start, "runs": runs}


RECORD = {
    "best": 0.01,
    "far": 30,
    "rows": [
        row(arm, start, ends)
        for arm, ends in ((CONTROL, [2.0, 2.2]), (EXPERIMENT, [2.1, 2.31]))
        for start in (0.01, 0.0003, 0.3)
    ],
}


def test_regrets_are_percent_over_the_control_at_the_best_rate() -> None:
    assert regret([2.1, 2.31], RECORD) == pytest.approx(5)


def test_the_table_has_a_row_for_each_start() -> None:
    assert [place(found, RECORD) for found in RECORD["rows"]] == ["best", "below", "above"] * 2
    rows = table(RECORD)
    assert rows["control"].tolist() == ["2.100 ± 0.100"] * 3
    assert rows["Explorer"].tolist() == ["2.205 ± 0.105"] * 3
    assert rows["highest rate after the search"].tolist()[0] == "0.03, 0.03"
