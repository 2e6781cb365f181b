"""The Flower app of a run does what the run within this process does."""

import json
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks.core.failures import RunError
from benchmarks.federated.runs import flower_engine
from benchmarks.federated.runs.flower_app import write_app
from benchmarks.federated.runs.flower_engine import on_flower
from benchmarks.federated.runs.folder import Folder, Plan
from benchmarks.federated.runs.run import Federation, RoundRecord
from benchmarks.federated.runs.settings import SELECTORS, STRATEGIES, Settings
from tests.benchmarks.federated.runs.fake_rounds import record

MODULES = ("client_app", "recorder", "run_settings", "server_app")


def tiny(**changes) -> Settings:
    known = {"clients": 6, "count": 3, "rounds": 3, "steps": 4, "batch": 8, "hidden": 8}
    rates = {"local_rate": 0.05, "momentum": 0.5, "dtype": "float64"}
    return Settings(**{**known, **rates, **changes})


def expected(settings: Settings) -> tuple[list[RoundRecord], torch.Tensor]:
    federation = Federation(settings)
    return list(federation.run()), federation.rounds.judged


def numbers(one: RoundRecord) -> dict[str, float]:
    return {name: value for name, value in asdict(one).items() if name != "selected"}


def require_same(folder: Folder, settings: Settings) -> None:
    """Raise unless the folder's rounds and model are those of a run within this process."""
    records, weights = expected(settings)
    for found, known in zip(folder.records(), records, strict=True):
        assert numbers(found) == pytest.approx(numbers(known), rel=1e-9, abs=1e-9)
        assert found.selected == known.selected
    flat = torch.cat([part.flatten() for part in folder.model().values()])
    assert flat.dtype == weights.dtype
    torch.testing.assert_close(flat, weights, rtol=0, atol=1e-9)


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Return a function that runs an app on nodes that are handed their messages."""
    with warnings.catch_warnings():
        # Flower's own imports warn of what its dependencies will take away.
        warnings.simplefilter("ignore")
        pytest.importorskip("flwr.serverapp.strategy")
        from flwr.app import Context, RecordDict

        from tests.integrations.local_grid import LocalGrid, node_id

    def run(settings: Settings) -> Folder:
        write_app(tmp_path / "app", settings)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path / "app"))
        nodes = {node_id(client): client for client in range(settings.clients)}
        grid = LocalGrid(import_module("client_app").app, nodes)
        import_module("server_app").app(grid, Context(1, 0, {}, RecordDict(), {}))
        return Folder(tmp_path)

    yield run
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_comes_to_the_same_weights(run_here, strategy: str) -> None:
    settings = tiny(strategy=strategy, proximal_mu=0.1)
    require_same(run_here(settings), settings)


@pytest.mark.parametrize("selector", SELECTORS)
def test_each_selector_selects_the_same(run_here, selector: str) -> None:
    settings = tiny(selector=selector, strategy="fedhyper-g", rounds=5)
    require_same(run_here(settings), settings)


@pytest.mark.parametrize("strategy", ["fedavg", "decay-sl", "fedadam", "fedhyper-sl"])
def test_the_servers_rate_is_the_same(run_here, strategy: str) -> None:
    settings = tiny(strategy=strategy, global_rate=1.5, max_norm=0.5)
    require_same(run_here(settings), settings)


def test_one_client_a_round_in_float32(run_here) -> None:
    settings = tiny(count=1, dtype="float32", probe=None, strategy="fedhyper-cl-paper")
    folder = run_here(settings)
    records, weights = expected(settings)
    assert [one.selected for one in folder.records()] == [one.selected for one in records]
    assert folder.records()[-1].bytes_down == records[-1].bytes_down
    flat = torch.cat([part.flatten() for part in folder.model().values()])
    torch.testing.assert_close(flat, weights, rtol=0, atol=1e-5)


# The engine's process, played by a script.


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that starts the engine with a script in place of Flower."""

    def start(script: str, rounds: int = 3):
        def write(folder: Path, settings: Settings) -> None:
            folder.mkdir(exist_ok=True)
            head = "import os, subprocess, sys, threading, time\n"
            lines = [f"L{t} = {line(t)!r}\n" for t in (1, 2, 3)]
            put = "def put(text):\n    open('rounds.jsonl', 'a').write(text)\n"
            body = head + "".join(lines) + put + textwrap.dedent(script)
            (folder / "simulate.py").write_text(body)

        monkeypatch.setattr(flower_engine, "write_app", write)
        folder = Folder(tmp_path)
        return folder, on_flower(folder, Plan(tiny(rounds=rounds), "flower"))

    return start


def line(round_: int, **changes) -> str:
    return json.dumps(asdict(record(round_, **changes))) + "\n"


def test_rounds_are_read_as_they_come_whole(play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of the file is written once the reader has looked behind the last."""
    folder, rounds = play("""
        def looked():
            number = len(os.listdir('looks'))
            while len(os.listdir('looks')) < number + 2:
                time.sleep(0.01)
        put(L1[:20]); looked(); put(L1[20:] + L2); looked(); put(L3)
    """)
    looks = folder.path / "looks"
    looks.mkdir()

    def look(seconds: float) -> None:
        (looks / str(len(list(looks.iterdir())))).touch()
        sleep(0.01)

    sleep = time.sleep
    monkeypatch.setattr(flower_engine.time, "sleep", look)
    assert list(rounds) == [record(1), record(2), record(3)]


def test_the_first_error_is_told_and_where_the_others_are(play) -> None:
    folder, rounds = play("""
        put(L1)
        try:
            raise KeyError('the cause')
        except KeyError as error:
            raise RuntimeError('Ending simulation.') from error
    """)
    assert next(rounds) == record(1)
    with pytest.raises(RunError) as caught:
        next(rounds)
    cause, where = str(caught.value).splitlines()
    assert cause == "KeyError: 'the cause'"
    assert where.startswith("Flower: it ended with code 1 after 1 rounds; ")
    assert where.endswith(f"{folder.path}/flower.log.")


def test_without_an_error_what_was_said_last_is_told(play) -> None:
    _, rounds = play("print('\\x1b[91mred'); os._exit(3)")
    with pytest.raises(RunError, match="^red\nFlower: it ended with code 3 after 0 rounds"):
        next(rounds)


def test_a_run_that_ends_too_early_is_an_error(play) -> None:
    _, rounds = play("put(L1 + L2)")
    with pytest.raises(RunError, match="code 0 after 2 rounds"):
        list(rounds)


def test_clients_that_all_fail_end_the_run(play) -> None:
    nobody = line(1, replied=0)
    _, rounds = play(f"put({nobody!r}); print('no module'); sys.stdin.read()")
    assert next(rounds).replied == 0
    with pytest.raises(RunError, match="no module\nFlower: no client replied in round 1"):
        next(rounds)


@pytest.mark.parametrize(
    "waits",
    ["sys.stdin.read(); os._exit(1)", "time.sleep(100_000)"],
    ids=["a process that ends when told", "one that has to be killed"],
)
def test_what_was_started_is_ended(play, monkeypatch: pytest.MonkeyPatch, waits: str) -> None:
    monkeypatch.setattr(flower_engine, "_GRACE", 1.0)
    folder, rounds = play(f"""
        child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100_000)'])
        open('pids', 'w').write(f'{{os.getpid()}} {{child.pid}}'); put(L1); {waits}
    """)
    with closing(rounds):
        next(rounds)
    for pid in (folder.path / "pids").read_text().split():
        # The test's own time limit is what ends the waiting.
        while running(int(pid)):
            time.sleep(0.02)


def running(pid: int) -> bool:
    # A child of a process that has ended is a zombie until somebody asks for it.
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True)
    return state.stdout.strip() not in (b"", b"Z")


def test_nothing_is_reported_and_flowers_home_is_the_folder(play) -> None:
    folder, rounds = play("""
        names = ('FLWR_TELEMETRY_ENABLED', 'RAY_USAGE_STATS_ENABLED', 'FLWR_HOME')
        print(*(os.environ[name] for name in names), os.getcwd()); put(L1 + L2 + L3)
    """)
    list(rounds)
    path = folder.path.resolve()
    said = (folder.path / "flower.log").read_text()
    assert said == f"0 0 {path / 'app' / '.flwr'} {path}\n"


def test_without_flower_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_engine, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'flwr and ray.*pip install "hdet\[flower\]"'):
        flower_engine.require_flower()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_on_rays_actors_it_is_the_same_too(tmp_path: Path) -> None:
    """The command, on Flower's simulation engine, and nothing left running."""
    pytest.importorskip("ray")
    options = {"clients": 6, "per-round": 3, "rounds": 3, "steps": 4, "batch": 8}
    options |= {
        "strategy": "fedhyper-g+cl-paper",
        "selector": "hetero-select",
        "dtype": "float64",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "hdet", "federate", "--engine", "flower", *words]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Folder(tmp_path / "run")
    require_same(folder, folder.plan().settings)
    home = f"FLWR_HOME={folder.path.resolve()}".encode()
    left = [p for p in Path("/proc").glob("[0-9]*") if home in environment(p)]
    assert left == []


def environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""
