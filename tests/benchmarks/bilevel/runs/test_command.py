"""`hdet bilevel`: one command makes a folder; an error of the user's is one line, code 2."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("skimage")
from typer.testing import CliRunner

from benchmarks.bilevel.runs import command, execution, settings
from benchmarks.bilevel.runs.folder import Folder
from benchmarks.bilevel.runs.methods import run_method
from benchmarks.bilevel.runs.report import command as again
from benchmarks.bilevel.runs.settings import Settings
from benchmarks.bilevel.runs.tasks import TASKS
from hdet import commands
from hdet.bilevel import Problem, Step

TINY = ["bilevel", "quadratic", "--max-steps", "6"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands.app, list(arguments))
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a run, and what was printed."""
    path = tmp_path_factory.mktemp("made") / "run"
    code, output = run(*TINY, "--budget", "100", "--out", str(path))
    assert code == 0, output
    return path, output


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, which take seconds."""
    monkeypatch.setattr(command, "write_report", lambda folder: folder.path / "report.html")


def steps(path: Path) -> list[Step]:
    """Return the steps without their cost: going on computes one gradient again."""
    return [replace(step, cost=0) for step in Folder(path).steps()]


def test_the_folder_has_the_methods_own_numbers(made: tuple[Path, str]) -> None:
    folder, task = Folder(made[0]), TASKS["quadratic"](0)
    result = run_method("maid", task, max_steps=6, budget=100, certify=None)
    assert folder.settings() == Settings("quadratic", budget=100, max_steps=6)
    assert folder.steps() == result.history
    assert torch.equal(folder.theta(), result.theta)
    outcome = folder.outcome()
    assert outcome is not None
    assert (outcome.message, outcome.counts) == (result.message, result.counts)
    assert outcome.after == task.judged(result.theta, result.x)
    assert outcome.before == task.judged(task.theta0, task.x0)


def test_what_is_printed_is_the_way_and_the_result(made: tuple[Path, str]) -> None:
    path, output = made
    lines = output.splitlines()
    step = Folder(path).steps()[0]
    assert lines[0] == f"Folder: {path}"
    shown = f"cost {step.cost}/100: step 1 loss {step.value:.4g} eps {step.accuracy:.1e} alpha "
    assert lines[1].startswith(shown)
    assert "quadratic: quadratic levels, 1000 x 10" in output
    assert lines[-1] == f"Report: {path / 'report.html'}"
    assert (path / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_is_not_run_again(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "run_method", lambda *_, **__: pytest.fail("ran"))
    code, output = run("bilevel", "--resume", str(made[0]))
    assert code == 0, output


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("method", ["maid", "hoag-cubic"])
@pytest.mark.parametrize("saved", [0.0, 1e9], ids=["every step", "at the end only"])
def test_a_run_that_was_stopped_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, saved: float
) -> None:
    whole, path = tmp_path / "whole", tmp_path / "my run"
    assert run(*TINY, "--method", method, "--out", str(whole))[0] == 0
    monkeypatch.setattr(execution, "_SAVE_EVERY", saved)
    with monkeypatch.context() as patch:
        patch.setattr(execution, "run_method", stopped_after(3))
        code, output = run(*TINY, "--method", method, "--out", str(path))
    assert code == 130
    assert "Stopped." in output
    # Killed while it wrote, and with a line that is ahead of the state.
    with (path / "steps.jsonl").open("a") as lines:
        lines.write((whole / "steps.jsonl").read_text().splitlines(True)[3] + '{"step": 5')
    said = output.splitlines()[-1].partition("with: hdet ")[2]
    code, output = run(*shlex.split(said))
    assert code == 0, output
    assert steps(path) == steps(whole)
    assert torch.equal(Folder(path).theta(), Folder(whole).theta())
    before, after = Folder(whole).outcome(), Folder(path).outcome()
    assert before is not None
    assert after is not None
    assert (after.value, after.after) == (before.value, before.after)


def stopped_after(count: int):
    def method(name: str, task: Any, *, callback: Any, **given: Any):
        def stop(step: Step, state: dict[str, Any]) -> None:
            callback(step, state)
            if step.step == count:
                raise KeyboardInterrupt

        return run_method(name, task, callback=stop, **given)

    return method


@pytest.mark.usefixtures("undrawn")
def test_a_run_goes_on_with_larger_limits(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "run"
    assert run(*TINY, "--out", str(whole))[0] == 0
    assert run("bilevel", "quadratic", "--max-steps", "2", "--out", str(path))[0] == 0
    code, output = run("bilevel", "--resume", str(path), "--max-steps", "6", "--budget", "2000")
    assert code == 0, output
    assert steps(path) == steps(whole)
    assert Folder(path).settings().max_steps == 6


@pytest.mark.usefixtures("undrawn")
def test_the_command_of_a_report_makes_the_same_settings(tmp_path: Path) -> None:
    asked = Settings(
        "quadratic", "maid-paper", 0.1, 1e-4, 60, 3, 0.5, "lbfgs", certify=False, seed=3
    )
    code, output = run(*shlex.split(again(asked))[1:], "--out", str(tmp_path))
    assert code == 0, output
    assert Folder(tmp_path).settings() == asked
    assert Folder(tmp_path).steps()[0].length <= 1e-4


def test_a_denoiser_is_learned_and_shown(tmp_path: Path) -> None:
    code, output = run("bilevel", "tv", "--budget", "120", "--out", str(tmp_path))
    assert code == 0, output
    outcome = Folder(tmp_path).outcome()
    assert outcome is not None
    assert outcome.after["loss"] < outcome.before["loss"]
    assert outcome.after["test_psnr"] > outcome.before["noisy_test_psnr"]
    names = sorted(file.name for file in (tmp_path / "plots").iterdir())
    assert names == ["descent.png", "images.png", "working.png"]
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 3
    assert f"{outcome.after['test_psnr']:.2f} dB" in output


@pytest.mark.usefixtures("undrawn")
def test_a_method_without_a_state_begins_again(tmp_path: Path) -> None:
    given = ("--method", "finite-differences", "--out", str(tmp_path))
    code, output = run("bilevel", "quadratic", "--budget", "60", *given)
    assert code == 0, output
    code, output = run("bilevel", "--resume", str(tmp_path), "--budget", "90")
    assert code == 0, output
    expected = run_method(
        "finite-differences", TASKS["quadratic"](0), budget=90, max_steps=1000
    )
    assert len(Folder(tmp_path).steps()) == len(expected.history)
    assert torch.equal(Folder(tmp_path).theta(), expected.theta)


def test_a_package_that_is_missing_is_missed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    code, output = run("bilevel", "tv", "--method", "dfo-ls", "--out", str(tmp_path / "run"))
    words = "hdet bilevel: --method dfo-ls needs its package: pip install hdet[peers].\n"
    assert (code, output) == (2, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nosuch", "TASK 'nosuch' is not known: write one of quadratic, logistic, tv, foe."),
        ("", "TASK is missing: write one of quadratic"),
        ("tv --method [bold]", "--method '[bold]' is not known: write one of maid"),
        ("tv --solver cg", "--solver 'cg' is not known: write one of newton-cg"),
        ("tv --accuracy 0", "--accuracy 0.0 must be finite and above 0"),
        ("tv --step nan", "--step nan must be finite and above 0"),
        ("tv --budget 0", "--budget 0 must be at least 1"),
        ("tv --max-steps 0", "--max-steps 0 must be at least 1"),
        ("tv --tolerance -1", "--tolerance -1.0 must be finite and at least 0"),
        ("tv --certify", "--certify needs constants that are not known of tv: leave it out"),
        ("quadratic --method fixed --certify", "--certify has no meaning for --method fixed"),
        (
            "tv --method finite-differences --step 1",
            "--step 1.0 has no meaning for --method fin",
        ),
        ("tv --method dfo-ls --tolerance 1", "--tolerance 1.0 has no meaning for --method dfo"),
        ("tv --resume /nowhere", "--resume goes on with the folder's task: leave tv out."),
        ("--resume /nowhere --seed 1", "and --seed, --out would change it"),
    ],
)
def test_an_error_of_the_users_is_one_line(tmp_path: Path, given: str, words: str) -> None:
    path = tmp_path / "run"
    code, output = run("bilevel", *given.split(), "--out", str(path))
    assert code == 2, output
    assert output.startswith("hdet bilevel: ")
    assert words in output
    assert output.count("\n") == 1
    assert not path.exists()


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    code, output = run("bilevel", "--resume", str(tmp_path / "nowhere"))
    assert code == 2
    assert "is not a run folder of `hdet bilevel`" in output


def test_larger_limits_are_checked_before_they_are_written(made: tuple[Path, str]) -> None:
    code, output = run("bilevel", "--resume", str(made[0]), "--budget", "0")
    assert code == 2
    assert "--budget 0 must be at least 1" in output
    assert Folder(made[0]).settings().budget == 100
    assert Folder(made[0]).outcome() is not None


def test_nothing_that_is_there_is_written_over(made: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    code, output = run(*TINY, "--out", str(tmp_path))
    assert code == 2
    assert "is not an empty folder" in output
    code, output = run(*TINY, "--out", str(made[0]))
    assert code == 2
    assert f"`hdet bilevel --resume {made[0]}`" in output


def test_a_run_that_is_not_finite_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing that the options allow leads there: trials that overflow are refused.
    overflowing = Problem(
        lambda x: x.square().sum(),
        lambda x, theta: (x - (1e4 * theta).exp().sum()).square().sum() / 2,
        mu=1.0,
    )
    task = replace(TASKS["quadratic"](0), problem=overflowing)
    monkeypatch.setattr(execution, "load", lambda settings: task)
    code, output = run("bilevel", "quadratic", "--no-certify", "--out", str(tmp_path))
    assert code == 1
    assert "The run broke off in outer step 1: the lower level is not finite" in output
    assert output.rstrip().endswith("A lower --step may help.")


def test_the_help_names_the_command() -> None:
    code, output = run("--help")
    assert code == 0
    assert "bilevel" in output
