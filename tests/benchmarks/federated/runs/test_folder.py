"""What is written is read back, and what is torn is passed over."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.federated.runs.folder import Folder, Plan
from benchmarks.federated.runs.settings import Settings
from tests.benchmarks.federated.runs.fake_rounds import SETTINGS, fake_folder, record


def test_what_was_asked_for_is_read_back(tmp_path: Path) -> None:
    plan = Plan(replace(SETTINGS, max_norm=2.5, probe=None, data="/some/where"), "flower")
    folder = fake_folder(tmp_path / "new", plan=plan)
    assert folder.plan() == plan
    assert {"torch", "flwr", "ray"} <= folder.environment()["packages"].keys()
    assert folder.seconds() == 12.5


def test_rounds_are_read_back_with_what_is_not_finite(tmp_path: Path) -> None:
    wild = record(3, loss=math.inf, train_loss=None)
    folder = fake_folder(tmp_path, [record(1), record(2, loss=math.nan), wild])
    first, second, third = folder.records()
    assert first == record(1)
    assert math.isnan(second.loss)
    assert third == wild


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    folder = fake_folder(tmp_path)
    file = tmp_path / "rounds.jsonl"
    file.write_text(file.read_text()[:-5])
    assert [one.round for one in folder.records()] == [1, 2, 3]


def test_a_run_that_begins_again_leaves_nothing_of_the_last(tmp_path: Path) -> None:
    folder = fake_folder(tmp_path)
    folder.begin()
    assert folder.records() == []
    assert folder.seconds() is None
    assert not (tmp_path / "model.pt").exists()
    assert folder.plan() == Plan(SETTINGS)


def test_the_model_is_a_state_dict_of_a_perceptron(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 10))
    net.load_state_dict(fake_folder(tmp_path).model())
    assert all(bool((p == 1).all()) for p in net.parameters())


def test_the_model_holds_no_more_than_itself(tmp_path: Path) -> None:
    """The parts are views of one vector; saved as such, each would bring all of it."""
    flat = torch.ones(100_000)
    folder = fake_folder(tmp_path)
    folder.write_model([flat[:6].view(3, 2), flat[:3], flat[:30].view(10, 3), flat[:10]])
    assert (tmp_path / "model.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        json.dumps({"settings": {"nosuch": 1}, "engine": "flower"}),
        json.dumps({"settings": {"clients": 3, "count": 9}, "engine": "flower"}),
    ],
)
def test_what_is_no_run_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is not a run folder of `hdet federate`"):
            Folder(path).plan()


def test_defaults_are_those_of_the_settings(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.create(Plan(Settings()))
    assert folder.plan().engine == "in-process"
    assert folder.records() == []
