"""The example, within this process, in Flower's simulation, and on real nodes."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import tomli
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp.strategy import Result

from hdet.integrations.flower import FedHyper

from .flower_processes import APP, Flower, kill_group
from .local_grid import LocalGrid, node_id

NODES = 10
QUICK: dict[str, Any] = {"data": "synthetic", "rounds": 2, "clients-per-round": 3}
DECLARED: dict[str, Any] = tomli.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"][
    "app"
]["config"]


class Watched(dict):
    """A run's config that remembers which keys were asked for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)


@pytest.fixture
def example(monkeypatch) -> Iterator[None]:
    """Let the example's modules be imported, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(APP))
    yield
    for name in ("client_app", "server_app", "task"):
        sys.modules.pop(name, None)


def here(monkeypatch, **config: Any) -> tuple[LocalGrid, Result, Watched]:
    """Run the example within this process."""
    run = Watched({**DECLARED, **QUICK, **config})
    nodes = {node_id(partition): partition for partition in range(NODES)}
    grid = LocalGrid(import_module("client_app").app, nodes)
    for context in grid.contexts.values():
        context.node_config["num-partitions"] = NODES
        context.run_config = run
    results = []

    def start(self: FedHyper, *args: Any, **kwargs: Any) -> Result:
        results.append(real_start(self, *args, **kwargs))
        return results[0]

    real_start = FedHyper.start
    monkeypatch.setattr(FedHyper, "start", start)
    import_module("server_app").app(grid, Context(1, 1, {}, RecordDict(), run))
    return grid, results[0], run


@pytest.mark.usefixtures("example")
def test_every_key_of_the_config_is_declared_and_used(monkeypatch):
    _, result, run = here(monkeypatch)
    assert run.asked == set(DECLARED)
    assert len(result.train_metrics_clientapp) == 2


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    "selector", ["heteroselect-updates", "random", "power-of-choice", "oort"]
)
def test_it_learns_with_the_other_selectors_too(monkeypatch, selector):
    _, result, _ = here(monkeypatch, selector=selector, dirichlet=5.0, lr=0.05)
    losses = [float(m["loss"]) for m in result.evaluate_metrics_serverapp.values()]  # pyright: ignore[reportArgumentType]
    assert losses[-1] < losses[0]


@pytest.mark.usefixtures("example")
def test_an_unknown_selector_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="selector='best' is unknown: take one of"):
        here(monkeypatch, selector="best")


@pytest.mark.usefixtures("example")
def test_missing_data_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        import_module("task").load(str(tmp_path))


@pytest.mark.usefixtures("example")
def test_too_many_clients_for_the_data_are_refused():
    with pytest.raises(ValueError, match="no split of 1000 examples among 900 clients"):
        import_module("task").partition("synthetic", 900, 0.5, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("example")
def test_in_flowers_simulation_it_does_what_it_does_here(monkeypatch):
    """The same selections, and the same rates, on Ray's actors as within this process."""
    grid, expected, _ = here(monkeypatch)
    with Flower(simulation=True) as flower:
        settings = f"num-supernodes={NODES} client-resources-num-cpus=1"
        run = flower.run(as_text(QUICK), settings)
        assert finished(run, 400)
        log = flower.log("run")
    assert selections(log) == grid.trained()
    for t in (1, 2):
        for name in ("fedhyper-alpha", "local-rate", "train-loss"):
            found = float(re.findall(rf"'{name}': ([-\d.e]+)[,}}]", log)[t - 1])
            assert found == pytest.approx(expected.train_metrics_clientapp[t][name], rel=1e-5)


# Goes behind the app: the first training of partition 1 does not end.
HELD = """
import os
import time
from pathlib import Path

_examples_of = examples_of


def examples_of(context):
    if context.node_config["partition-id"] == 1:
        (Path(os.environ["FLWR_HOME"]) / "held").touch()
        time.sleep(100_000)
    return _examples_of(context)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_real_nodes_the_death_of_one_is_survived():
    """A SuperLink and three SuperNodes; one is killed in the first of two rounds.

    It waits for that in its training, so that it cannot have replied before.
    """
    config = {**QUICK, "clients-per-round": 2, "selector": "random", "timeout": 120.0}
    with Flower(simulation=False) as flower:
        with (flower.home / "app" / "client_app.py").open("a") as app:
            app.write(HELD)
        nodes = [flower.supernode(partition, of=3) for partition in range(3)]
        run = flower.run(as_text(config))
        # With seed 0 the first round selects partition 1.
        flower.wait_for_file("held", timeout=250)
        kill_group(nodes[1].pid)
        assert finished(run, 330)
        log = flower.log("run")
    first, second = selections(log)
    assert 1 in first
    assert second == [0, 2]
    assert "round 1 has no usable reply of [1]; the selector goes on without" in log
    assert len(re.findall(r"Aggregated MetricRecord: .*'fedhyper-alpha'", log)) == 2


def finished(run: subprocess.Popen, timeout: float) -> bool:
    return run.wait(timeout) == 0


def as_text(config: dict[str, Any]) -> str:
    """Return a run's config as the command line wants it."""
    quoted = {k: f'"{v}"' if isinstance(v, str) else v for k, v in config.items()}
    return " ".join(f"{key}={value}" for key, value in quoted.items())


def selections(log: str) -> list[list[int]]:
    found = re.findall(r"SelectClients: round \d+ trains on \[([\d, ]+)\]", log)
    return [[int(name) for name in names.split(",")] for names in found]


def test_the_config_is_written_as_toml():
    assert as_text({"data": "x", "lr": 0.1}) == 'data="x" lr=0.1'
    assert ConfigRecord(DECLARED)["rounds"] == 20
