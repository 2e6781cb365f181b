"""What is written is read back the same, whole, and as strict JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.compare.records import Result, RunFolder
from benchmarks.core.files import write_json
from tests.benchmarks.compare.fake_run import ROWS, STEPS, SYNC, fake_run

RESULT = Result(3.3, 3.4, False, 0.05, 1e-4, 12.0, 0.03)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fake_run(tmp_path_factory.mktemp("run"))


def test_a_folder_from_before_a_field_was_added_still_loads(tmp_path: Path) -> None:
    made = fake_run(tmp_path, {"hdet-full": [3.3, 3.4]}, steps=10)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["configurations"][0].pop("noisy")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (row,) = made.plan().configurations
    assert not row.noisy


def test_settings_and_results_are_read_back_without_what_is_unfinished(
    folder: RunFolder,
) -> None:
    settings = folder.plan()
    assert (settings.configurations, settings.steps) == (ROWS, STEPS)
    assert list(folder.results("ddp-mid-2")) == [0]
    assert folder.result("ddp-mid-2", 1) is None
    assert [x.train_loss for x in folder.results("baseline-low").values()] == [3.294, 3.298]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_result_that_is_not_finite_is_null_in_the_file(tmp_path: Path, value: float) -> None:
    made = fake_run(tmp_path, {"hdet-full": [None, None]}, steps=10)
    file = made.run("hdet-full", 0) / "result.json"
    write_json(file, asdict(RESULT) | {"train_loss": value})
    raw = json.loads(file.read_text(), parse_constant=refuse)
    assert raw["train_loss"] is None
    result = made.result("hdet-full", 0)
    assert result is not None
    assert math.isnan(result.train_loss)
    assert asdict(result) | {"train_loss": 3.3} == asdict(RESULT)


def test_lines_are_of_one_kind_and_in_order(folder: RunFolder) -> None:
    steps = list(folder.lines("hdet-full", 0, "step"))
    syncs = list(folder.lines("hdet-full", 0, "sync"))
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["step"] for line in syncs] == list(range(SYNC, STEPS + 1, SYNC))
    assert ("weights" in syncs[0], "weights" in syncs[-1]) == (False, True)
    assert list(folder.lines("no-such-row", 0, "step")) == []


def test_of_lines_only_whole_ones_of_their_kind_are_parsed(tmp_path: Path) -> None:
    made = RunFolder(tmp_path)
    made.run("a", 0).mkdir(parents=True)
    whole = json.dumps({"kind": "step", "step": 1, "losses": [math.nan, math.inf]})
    text = f'{whole}\n{{"kind": "sync", broken}}\n{whole}'
    (made.run("a", 0) / "metrics.jsonl").write_text(text)
    (line,) = made.lines("a", 0, "step")
    assert math.isnan(line["losses"][0])
    assert line["losses"][1] == math.inf
