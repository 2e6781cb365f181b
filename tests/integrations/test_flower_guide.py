"""The app of docs/guides/flower.md, put together from the page and run within this process."""

import re
from pathlib import Path
from typing import Any

import pytest
import tomli

pytest.importorskip("flwr")
from flwr.app import Context, RecordDict

from .local_grid import LocalGrid, node_id

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "flower.md").read_text()
NODES = 10


def block(language: str, words: str) -> str:
    """Return the page's block of a language that has some words."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(code for code in found if words in code)


def run(code: str) -> dict[str, Any]:
    """Return the names that a block makes."""
    made: dict[str, Any] = {}
    exec(compile(code, "docs/guides/flower.md", "exec"), made)
    return made


def grid() -> LocalGrid:
    """Return nodes that run the page's client."""
    nodes = {node_id(partition): partition for partition in range(NODES)}
    return LocalGrid(run(block("python", "ClientApp()"))["app"], nodes)


def metrics(capsys: pytest.CaptureFixture[str]) -> dict[int, Any]:
    """Return what the page's server has printed: each round's metrics."""
    printed = capsys.readouterr().out
    return eval(printed[printed.index("{") :])  # the representation of a dictionary


@pytest.mark.parametrize("selector", ["HeteroSelect(rounds=10)", "PowerOfChoice(candidates=8)"])
def test_the_app_trains_and_its_rates_rise(selector, capsys):
    code = block("python", "ServerApp()").replace("HeteroSelect(rounds=10)", selector)
    code = code.replace("import HeteroSelect", "import HeteroSelect, PowerOfChoice")
    nodes = grid()
    run(code)["app"](nodes, Context(1, 1, {}, RecordDict(), {}))
    rounds = metrics(capsys)
    assert len(rounds) == 10
    assert rounds[10]["train-loss"] < rounds[1]["train-loss"] / 2
    assert rounds[10]["fedhyper-beta"] > rounds[1]["fedhyper-beta"] == 0.01
    assert {len(chosen) for chosen in nodes.trained()} == {4}


def test_the_project_names_both_apps():
    components = tomli.loads(block("toml", "clientapp"))["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "server_app:app", "clientapp": "client_app:app"}
    assert "`server_app.py`" in PAGE
    assert "`client_app.py`" in PAGE


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import torch
    from flwr.app import ArrayRecord

    def start(code: dict[str, Any], arrays: ArrayRecord, rounds: int) -> dict[str, Any]:
        result = code["strategy"].start(
            grid=grid(), initial_arrays=arrays, num_rounds=rounds, evaluate_fn=code["save"]
        )
        return result.arrays.to_torch_state_dict()

    first = ArrayRecord(torch.nn.Linear(20, 2).state_dict())
    whole = start(run(block("python", "def load()")), first, 6)
    start(run(block("python", "def load()")), first, 3)
    resumed = run(block("python", "def load()"))
    end = start(resumed, resumed["load"](), 3)
    assert all(torch.equal(end[name], whole[name]) for name in whole)
