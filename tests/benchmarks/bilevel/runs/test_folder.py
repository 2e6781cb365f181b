"""What is written is read back, and what is torn is passed over."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks.bilevel.runs.folder import Folder
from benchmarks.bilevel.runs.settings import Settings
from tests.benchmarks.bilevel.runs.made_up import SETTINGS, made_up, outcome, step


def test_what_was_asked_for_is_read_back(tmp_path: Path) -> None:
    settings = Settings("tv", "maid-paper", 0.1, 0.2, 300, 7, 0.5, "lbfgs", False, 4)
    folder = made_up(tmp_path / "new", settings=settings)
    assert folder.settings() == settings
    assert {"torch", "scikit-image"} <= folder.environment()["packages"].keys()
    assert folder.outcome() == outcome()
    assert torch.equal(folder.theta(), torch.ones(10))


def test_steps_are_read_back_with_what_is_not_finite(tmp_path: Path) -> None:
    wild = [step(1, value=math.inf), step(2, error_bound=0.5)]
    assert made_up(tmp_path, wild).steps() == wild


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    folder = made_up(tmp_path)
    file = tmp_path / "steps.jsonl"
    file.write_text(file.read_text()[:-5])
    assert [one.step for one in folder.steps()] == [1, 2, 3]


def test_a_run_that_goes_on_drops_what_its_state_does_not_have(tmp_path: Path) -> None:
    folder = made_up(tmp_path, end=None)
    file = tmp_path / "steps.jsonl"
    file.write_text(file.read_text()[:-5])
    folder.begin([asdict(step(1)), asdict(step(2))])
    folder.append(step(3, value=1.25))
    assert folder.steps() == [step(1), step(2), step(3, value=1.25)]


def test_a_state_is_numbers_and_tensors_written_whole(tmp_path: Path) -> None:
    folder = made_up(tmp_path, end=None)
    assert folder.state() == (None, 0.0)
    folder.write_state({"theta": torch.ones(3), "history": [asdict(step(1))]}, 1.5)
    state, seconds = folder.state()
    assert state is not None
    assert torch.equal(state["theta"], torch.ones(3))
    assert state["history"] == [asdict(step(1))]
    assert seconds == 1.5
    assert not list(tmp_path.glob("*.tmp"))


def test_a_complete_run_may_be_asked_for_more(tmp_path: Path) -> None:
    folder = made_up(tmp_path)
    folder.extend(replace(SETTINGS, budget=200))
    assert folder.settings().budget == 200
    assert folder.outcome() is None
    assert len(folder.steps()) == 4


@pytest.mark.parametrize(
    "content",
    ["{", "{}", "[]", json.dumps({"task": "tv", "more": 1}), json.dumps({"task": "nosuch"})],
)
def test_what_is_no_run_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is not a run folder of `hdet bilevel`"):
            Folder(path).settings()
