"""Records as they are found: torn, resumed, growing, damaged, or something else."""

import json
import math
from pathlib import Path

import pytest

from hdet.report.files import Follower, names_of, read_record, records_in
from hdet.report.record import RecordError

from .runs import HEADER, climb, sync, write


def test_lines_become_columns(tmp_path: Path) -> None:
    record = read_record(
        write(tmp_path / "x.jsonl", HEADER, climb(1, 1e-4, loss=4.0), climb(2, 2e-4),
              sync(12), sync(22, loss=None), sync(32, rollbacks=1, decision="step 32: spike"))
    )  # fmt: skip
    assert [*record.steps] == [1, 2, 12, 22, 32]
    assert [*record.rates[0].base] == [1e-4, 2e-4, 0.05, 0.05, 0.05]
    assert record.rates[0].replicas[1][2] == pytest.approx(0.055)
    assert [x for x in record.loss.base if x == x] == [4.0, 2.0, 2.0]
    assert math.isnan(record.loss.base[3])
    assert record.spans() == [("climb", 0, 1), ("hold", 2, 4)]
    assert record.events() == [(4, "rollback", "step 32: spike")]
    assert record.found == pytest.approx([0.05])
    assert record.seconds == 31


def test_what_a_restart_threw_away_vanishes(tmp_path: Path) -> None:
    lines = [sync(10), sync(20), sync(30, loss=9.0, rollbacks=1), sync(40, loss=9.0)]
    resumed = [HEADER, sync(30, loss=1.0), sync(40, loss=0.9)]
    record = read_record(write(tmp_path / "x.jsonl", HEADER, *lines, *resumed))
    assert [*record.steps] == [10, 20, 30, 40]
    assert [*record.loss.base] == [2.0, 2.0, 1.0, 0.9]
    assert record.events() == []
    assert record.resumed == [30]
    whole = [HEADER, sync(10), sync(20), *resumed[1:]]
    assert [*record.loss.base] == [*read_record(write(tmp_path / "y.jsonl", *whole)).loss.base]


def test_a_run_that_began_anew_in_the_same_file_counts_alone(tmp_path: Path) -> None:
    record = read_record(write(tmp_path / "x.jsonl", HEADER, sync(10), HEADER, sync(5)))
    assert [*record.steps] == [5]
    assert record.resumed == []


def test_torn_and_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    damaged = {**sync(20), "base_lr": "x"}
    path = write(tmp_path / "x.jsonl", HEADER, sync(10), '{"step": 2\n', damaged, {}, sync(30),
                 json.dumps(sync(40))[:-30])  # fmt: skip
    assert [*read_record(path).steps] == [10, 30]


def test_a_record_is_followed_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    follower = Follower(path)
    assert not follower.read()
    write(path, HEADER, sync(10), json.dumps(sync(20))[:50])
    assert follower.read()
    assert [*follower.record.steps] == [10]
    assert not follower.read()
    with path.open("a") as file:
        file.write(json.dumps(sync(20))[50:] + "\n")
    assert follower.read()
    assert [*follower.record.steps] == [10, 20]
    write(path, HEADER, sync(10))
    assert follower.read()
    assert [*follower.record.steps] == [10]


def test_a_new_run_in_the_same_file_is_told_from_the_old_one_that_grew(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", HEADER, sync(10, rate=0.01))
    follower = Follower(path)
    follower.read()
    write(path, {**HEADER, "written": [0.7]}, sync(10, rate=0.7), sync(20, rate=0.7))
    assert follower.read()
    assert follower.record.written == [0.7]
    assert [*follower.record.rates[0].base] == [0.7, 0.7]
    # With the same header, by when its first line was written.
    later = {**sync(10, rate=0.3), "time_ms": 1_900_000_000_000}
    write(path, {**HEADER, "written": [0.7]}, later, sync(20), sync(30))
    assert follower.read()
    assert follower.record.rates[0].base[0] == 0.3


def test_more_replicas_after_a_resume_leave_gaps(tmp_path: Path) -> None:
    more = {**sync(20), "losses": [1.0, 2.0, 3.0]}
    loss = read_record(write(tmp_path / "x.jsonl", HEADER, sync(10), HEADER, more)).loss
    assert [*loss.base] == [2.0, 2.0]
    assert math.isnan(loss.replicas[2][0])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "is empty"),
        ([HEADER], "has a header alone"),
        (["half a li"], "has no whole line"),
        ([{"epoch": 1}], "is not the record of a run"),
        (["epoch,loss\n"], "is not the record of a run"),
        ([{**HEADER, "hdet": "9.0", "format": 2}, sync(10)], "hdet 9.0, in a newer format"),
        ([{**HEADER, "written": None}, sync(10)], "damaged header"),
    ],
)
def test_what_is_no_record_is_told_in_words(tmp_path: Path, lines: list, words: str) -> None:
    path = write(tmp_path / "x.jsonl", *lines)
    with pytest.raises(RecordError, match=words) as refused:
        records_in([path])
    assert str(path) in str(refused.value)


def test_a_folder_gives_its_records_alone(tmp_path: Path) -> None:
    write(tmp_path / "a" / "run.jsonl", HEADER, sync(10))
    write(tmp_path / "b" / "run.jsonl", HEADER, sync(20))
    write(tmp_path / "data.jsonl", {"text": "a data set"})
    found = records_in([tmp_path])
    assert [record.steps[0] for record in found] == [10, 20]
    assert names_of([record.path for record in found]) == ["a/run", "b/run"]


def test_a_folder_without_records_says_why(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no record of a run: records end in .jsonl"):
        records_in([tmp_path])
    write(tmp_path / "x.jsonl")
    with pytest.raises(RecordError, match=r"x.jsonl is empty"):
        records_in([tmp_path])
    with pytest.raises(RecordError, match="there is no .*nowhere"):
        records_in([tmp_path / "nowhere"])


def test_a_long_first_line_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", "0" * 5_000_000)
    with pytest.raises(RecordError, match="is not the record of a run"):
        read_record(path)


def test_what_is_wrong_is_told_as_long_as_it_is_so(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"epoch": 1})
    follower = Follower(path)
    for _ in range(2):
        with pytest.raises(RecordError):
            follower.read()
    write(path, HEADER, sync(10))
    assert follower.read()
