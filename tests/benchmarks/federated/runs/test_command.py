"""`hdet federate`: one command makes a folder; an error of the user's is one line, code 2."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")
from typer.testing import CliRunner

from benchmarks.core.failures import RunError
from benchmarks.federated.runs import command, execution, options
from benchmarks.federated.runs.folder import Folder, Plan
from benchmarks.federated.runs.run import Federation
from benchmarks.federated.runs.settings import Settings
from hdet import commands

TINY = shlex.split("federate --clients 6 --per-round 2 --rounds 3 --steps 4 --batch 8")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands.app, list(arguments))
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a run, and what was printed."""
    path = tmp_path_factory.mktemp("made") / "run"
    code, output = run(*TINY, "--lr", "0.05", "--seed", "7", "--out", str(path))
    assert code == 0, output
    return path, output


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, which take seconds."""
    monkeypatch.setattr(command, "write_report", lambda folder: folder.path / "report.html")


def test_the_folder_has_the_runs_own_numbers(made: tuple[Path, str]) -> None:
    settings = Settings(clients=6, count=2, rounds=3, steps=4, batch=8, local_rate=0.05, seed=7)
    folder, federation = Folder(made[0]), Federation(settings)
    assert folder.plan() == Plan(settings)
    assert folder.records() == list(federation.run())
    flat = torch.cat([part.flatten() for part in folder.model().values()])
    assert torch.equal(flat, federation.rounds.judged)


def test_what_is_printed_is_the_way_and_the_result(made: tuple[Path, str]) -> None:
    path, output = made
    last = Folder(path).records()[-1]
    lines = output.splitlines()
    assert lines[0] == f"Folder: {path}"
    clients = " ".join(map(str, last.selected))
    shown = f"round 3/3: loss {last.loss:.4f} acc {last.accuracy:5.1f} % alpha "
    assert lines[3].startswith(shown)
    assert lines[3].endswith(f"clients {clients}")
    assert f"{last.accuracy:.2f} %" in output
    assert lines[-1] == f"Report: {path / 'report.html'}"
    assert (path / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_is_not_run_again(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "in_process", lambda folder, plan: pytest.fail("ran"))
    code, output = run("federate", "--resume", str(made[0]))
    assert code == 0
    assert "round 3/3" not in output


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_was_stopped_comes_to_the_same(
    made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(execution, "in_process", stopped_after(2))
        path = tmp_path / "my run"
        code, output = run(*TINY, "--lr", "0.05", "--seed", "7", "--out", str(path))
    assert code == 130
    assert "Stopped." in output
    assert len(Folder(path).records()) == 2
    said = output.splitlines()[-1].partition("with: hdet ")[2]
    code, output = run(*shlex.split(said))
    assert code == 0, output
    assert Folder(path).records() == Folder(made[0]).records()
    before, after = Folder(made[0]).model(), Folder(path).model()
    assert all(torch.equal(before[name], after[name]) for name in before)


def stopped_after(rounds: int):
    def engine(folder: Folder, plan: Plan) -> Iterator:
        for record in execution_in_process(folder, plan):
            yield record
            if record.round == rounds:
                raise KeyboardInterrupt

    return engine


execution_in_process = execution.in_process


@pytest.mark.usefixtures("undrawn")
def test_options_reach_the_settings(tmp_path: Path) -> None:
    code, output = run(
        *TINY, "--alpha", "5", "--strategy", "fedprox", "--selector", "oort", "--server-lr",
        "0.5", "--momentum", "0.9", "--dtype", "float64", "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0, output
    found = Folder(tmp_path).plan().settings
    assert (found.concentration, found.global_rate, found.momentum) == (5.0, 0.5, 0.9)
    assert (found.strategy, found.selector, found.dtype) == ("fedprox", "oort", "float64")
    # With a mu of zero it would be FedAvg.
    assert found.proximal_mu == 0.1
    assert Folder(tmp_path).model()["0.weight"].dtype == torch.float64


@pytest.mark.usefixtures("undrawn")
def test_the_command_of_a_report_makes_the_same_plan(tmp_path: Path) -> None:
    from benchmarks.federated.runs.report import command as again

    settings = Settings(clients=6, count=2, rounds=2, steps=2, seed=3, global_rate=0.5)
    code, output = run(*shlex.split(again(Plan(settings)))[1:], "--out", str(tmp_path))
    assert code == 0, output
    assert asdict(Folder(tmp_path).plan().settings) == asdict(settings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--task nosuch", "--task 'nosuch' is not known: write one of digits"),
        ("--strategy [bold]", "--strategy '[bold]' is not known: write one of fedavg"),
        ("--selector best", "--selector 'best' is not known: write one of random"),
        ("--engine spark", "--engine 'spark' is not known: write one of in-process, flower"),
        ("--dtype int8", "--dtype 'int8' is not known: write one of float32, float64"),
        ("--clients 0", "--clients 0 must be at least 1"),
        ("--per-round 7", "--per-round 7 must be at most clients=6"),
        ("--clients 600", "--clients 600 leaves fewer than 5 of 1438 images"),
        ("--alpha 0", "--alpha 0.0 must be above 0"),
        ("--lr nan", "--lr nan must be above 0"),
        ("--server-lr 30", "[0.333333, 3]: start inside."),
        ("--momentum 1", "--momentum 1.0 must lie in [0, 1)"),
        ("--mu -1", "--mu -1.0 must be finite and at least 0"),
        ("--task mnist --data /nowhere", "/nowhere cannot be read"),
        ("--task fashion --data /nowhere", "/nowhere has no such file"),
        (
            "--resume /nowhere",
            "--clients, --per-round, --rounds, --steps, --batch, --out would",
        ),
    ],
)
def test_an_error_of_the_users_is_one_line(tmp_path: Path, given: str, words: str) -> None:
    path = tmp_path / "run"
    code, output = run(*TINY, *given.split(), "--out", str(path))
    assert code == 2, output
    assert output.startswith("hdet federate: ")
    assert words in output
    assert output.count("\n") == 1
    assert not path.exists()


def test_flower_is_missed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ValueError("Flower is not there")

    monkeypatch.setattr(options, "require_flower", missing)
    code, output = run(*TINY, "--engine", "flower", "--out", str(tmp_path / "run"))
    assert (code, output) == (2, "hdet federate: Flower is not there\n")
    assert not (tmp_path / "run").exists()


def test_nothing_that_is_there_is_written_over(made: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        code, output = run(*TINY, "--out", str(out))
        assert code == 2
        assert "is not an empty folder" in output
    code, output = run(*TINY, "--out", str(made[0]))
    assert code == 2
    assert f"`hdet federate --resume {made[0]}`" in output


def test_data_that_went_missing_are_missed_at_once(made: tuple[Path, str], tmp_path: Path):
    text = (made[0] / "config.json").read_text()
    text = text.replace('"digits"', '"mnist"').replace('"data": null', '"data": "/nowhere"')
    (tmp_path / "config.json").write_text(text)
    code, output = run("federate", "--resume", str(tmp_path))
    assert code == 2
    assert "/nowhere cannot be read" in output


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_diverges_says_so(tmp_path: Path) -> None:
    arguments = [*TINY, "--strategy", "fedhyper-g", "--lr", "1e30", "--out", str(tmp_path)]
    code, output = run(*arguments)
    assert code == 1
    assert "The run diverged in round 1: no client's update is finite." in output
    assert output.rstrip().endswith("A lower --lr may help.")


def test_an_engine_that_fails_is_heard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Folder, plan: Plan) -> Iterator:
        raise RunError("x[0] is the cause")
        yield

    monkeypatch.setattr(execution, "in_process", fail)
    code, output = run(*TINY, "--out", str(tmp_path))
    assert code == 1
    *_, cause, remedy = output.rstrip().splitlines()
    assert cause == "x[0] is the cause"
    assert remedy.endswith(
        f"begin again, to the same numbers, with: hdet federate --resume {tmp_path}"
    )
