"""`python -m benchmarks federated`: a run's numbers, and one command that makes a folder."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
from typer.testing import CliRunner

from benchmarks.commands import app
from benchmarks.core.failures import MissingDataError
from benchmarks.federated import command, study
from benchmarks.federated.methods import STRATEGIES, Settings
from benchmarks.federated.study import Folder, Plan, Unit, jain, outcome, units

SMALL = Settings(task="digits", clients=10, count=5, rounds=3, steps=3, batch=8)
TINY = ["--experiments", "rates", "--seeds", "1", "--rounds", "2"]


def test_a_run_gives_the_same_numbers_again() -> None:
    first, second = (outcome(Unit("rates", SMALL)) for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert (first["diverged"], len(first["accuracies"])) == (False, 3)
    assert first["last"] == pytest.approx(sum(first["accuracies"]) / 3, abs=0.01)
    # 64 x 32 + 32 + 32 x 10 + 10 numbers of four bytes, five clients, three rounds, and
    # with CL in the last two of them the last update.
    assert first["bytes_up"] == 2410 * 4 * 5 * 3
    assert first["bytes_down"] == 2410 * 4 * 5 * 5


@pytest.mark.parametrize("strategy", ["fedavg", "fedhyper", "fedexp", "delta-sgd"])
def test_a_run_that_diverges_counts_as_one_that_guesses(strategy: str) -> None:
    made = outcome(Unit("rates", replace(SMALL, strategy=strategy, local_rate=1e30)))
    assert made["diverged"]
    assert (made["accuracies"], made["last"]) == ([10.0] * 3, 10.0)
    assert (made["worst_class"], made["late_deviation"]) == (0.0, 0.0)
    json.dumps(made, allow_nan=False)


def test_jains_index_by_hand() -> None:
    assert jain([3, 3, 3]) == pytest.approx(1.0)
    assert jain([6, 0, 0]) == pytest.approx(1 / 3)
    # 8 selections of 5 clients: 8^2 / (5 (16 + 4 + 1 + 1)).
    assert jain([4, 2, 1, 1, 0]) == pytest.approx(64 / 110)


def test_a_plan_has_every_run_once() -> None:
    keys = [unit.key for unit in units(Plan(["rates", "selection", "mu"]))]
    # 2 tasks, 3 seeds, 13 strategies, 25 starts; 2 tasks, 20 seeds, 7 selectors; 20 seeds,
    # 3 strengths, 4 selectors.
    assert len(keys) == len(set(keys)) == 1950 + 280 + 240
    assert keys[0] == "rates/digits/fedavg/random/0.001/0.5/0/0"
    assert keys[-1] == "mu/mnist/fedprox/hetero-select/0.05/1/0.5/19"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["federated", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--experiments", "rates,[bold]"], "--experiments: there is no [bold]: choose from"),
        (["--experiments", " ,"], "choose from rates, selection, mu"),
        (["--resume", "/nowhere"], "/nowhere is not a run folder of"),
        (["--resume", "/nowhere", "--selection-seeds", "2"], "and --selection-seeds would"),
    ],
)
def test_an_error_of_the_users_is_one_line(options: list[str], words: str) -> None:
    code, output = run(*options)
    assert code == 2
    assert output.startswith("python -m benchmarks federated: ")
    assert words in output
    assert output.count("\n") == 1


def test_only_the_data_of_the_experiments_are_needed_and_missing_ones_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(task: str, pool: int) -> None:
        asked.append((task, pool))
        if task == "fashion":
            raise MissingDataError("`fashion` is not here. To get it: ...")

    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(command, "load", refuse)
    code, output = run("--experiments", "mu, selection", "--out", str(tmp_path / "run"))
    assert code == 2
    assert output.startswith("python -m benchmarks federated: `fashion` is not here.")
    assert asked == [("mnist", 2), ("fashion", 2)]
    assert not (tmp_path / "run").exists()


def test_the_command_stops_resumes_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_after_three(folder: Folder, todo: Sequence[Unit], *_: object) -> None:
        for unit in todo[:3]:
            folder.append(unit, outcome(unit))
        raise KeyboardInterrupt

    out = tmp_path / "my run"
    monkeypatch.setattr(study, "TASKS", {"rates": ("digits",)})
    monkeypatch.setattr(study, "STRATEGIES", {name: STRATEGIES[name] for name in ("fedavg",)})
    with monkeypatch.context() as patch:
        patch.setattr(command, "do_runs", stop_after_three)
        code, output = run(*TINY, "--out", str(out))
    assert code == 130
    assert f"python -m benchmarks federated --resume '{out}'" in output
    code, output = run("--resume", str(out), "--processes", "1")
    assert code == 0, output
    assert "Runs: 25, 22 to do." in output
    assert output.splitlines()[-1] == f"Report: {out / 'report.html'}"
    page = (out / "report.html").read_text()
    assert "digits: every start" in page
    assert page.count("data:image/png") == 1
    assert "--experiments rates --seeds 1" in page
    # The run done by a worker is the run done here.
    results = Folder(out).results()
    last = units(Folder(out).plan())[-1]
    expected = {"key": last.key, **outcome(last)}
    assert len(results) == 25
    assert {**results[last.key], "seconds": 0} == {**expected, "seconds": 0}
