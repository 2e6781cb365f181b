"""What is run, in which order, and how a run that was stopped goes on."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.commands import app
from benchmarks.core.pool import WorkerError
from benchmarks.robustness import command as bench
from benchmarks.robustness.methods import LABELS
from benchmarks.robustness.problems import PROBLEMS, Method, Outcome, Problem
from benchmarks.robustness.study import (
    STARTS,
    Folder,
    Runs,
    Unit,
    plan,
    run_all,
    start_label,
    start_point,
)
from benchmarks.tasks import Task
from tests.benchmarks.robustness import fakes
from tests.benchmarks.robustness.fakes import ONE, TWO, do, fake_run, settings


def new_folder(path: Path, *names: str, problems: tuple[Problem, ...] = (ONE,)) -> Folder:
    folder = Folder(path)
    folder.create(settings(*names, problems=problems))
    return folder


def write(folder: Folder, unit: Unit, loss: float, seconds: float) -> None:
    run = {"held_out": loss, "steps": [1], "lrs": [unit.lr], "seconds": seconds}
    folder.append(unit, {"lr": unit.lr, **run})


def test_the_sweep_comes_first_then_the_starts(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "ddp", "hdet", "prodigy")
    known, later = Runs(folder).units()
    assert {unit.point for unit in known} == {f"sweep{k:+d}" for k in range(-3, 4)}
    assert [unit.lr for unit in known[::2]] == pytest.approx(
        [0.1 * 10 ** (k / 2) for k in range(-3, 4)]
    )
    # Two methods from seven starts and one without any, two seeds each.
    assert later == 2 * (7 + 7 + 1)
    assert do(folder) == 14
    known, left = Runs(folder).units()
    assert (len(known) - 14, left) == (later, 0)
    hdet = [unit for unit in known if unit.method == "hdet" and unit.seed == 0]
    assert [unit.lr for unit in hdet] == pytest.approx([0.1 * start for start in STARTS])
    free = [unit for unit in known if unit.method == "prodigy"]
    assert [unit.point for unit in free] == ["startany"] * 2
    assert do(folder) == later
    assert Runs(folder).unfinished() == []


def test_a_run_that_was_stopped_does_only_what_has_no_result(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet")
    do(folder)
    do(folder)
    file = tmp_path / "results.jsonl"
    *others, last = file.read_text().splitlines(keepends=True)
    file.write_text("".join(others) + last[:20])
    (unit,) = Runs(folder).unfinished()
    assert unit.key == json.loads(last)["key"]
    run_all(folder, 1, fakes.methods, fakes.load)
    assert file.read_text() == "".join([*others, last])


@pytest.mark.parametrize(
    ("centre", "points", "best"),
    [
        (0.1, (-3, 3), 0),
        # The bottom lies two decades up, then far out of reach.
        (0.1 * 10**-2, (-3, 5), 4),
        (0.1 * 10**-5, (-3, 5), 5),
        # The fakes diverge a decade and a half above the bottom.
        (0.1 * 10**2, (-5, 3), -4),
    ],
)
def test_the_sweep_goes_on_while_the_best_is_outermost(
    tmp_path: Path, centre: float, points: tuple[int, int], best: int
) -> None:
    problem = Problem("one", "none", "sgd", 40, centre)
    folder = fake_run(tmp_path, "hdet", problems=(problem,))
    found = Runs(folder).sweep_points(problem)
    assert found == list(range(points[0], points[1] + 1))
    assert Runs(folder).best_point(problem) == best


def test_one_seed_that_diverges_disqualifies_a_rate(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet")
    do(folder)
    unit = next(u for u in Runs(folder).units()[0] if u.point == "sweep+0" and u.seed == 1)
    write(folder, unit, math.nan, 1.0)
    last = (tmp_path / "results.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["held_out"] is None
    assert Runs(folder).best_point(ONE) in {-1, 1}


def test_a_problem_that_no_rate_trains_is_an_error(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet", problems=(Problem("bad", "none", "sgd", 40, 1e6),))
    do(folder)
    with pytest.raises(ValueError, match=r"no rate of the sweep of bad .* correct its"):
        Runs(folder).units()


def test_longest_first(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet", problems=(ONE, TWO))
    for unit in Runs(folder).units()[0]:
        loss = 1 + abs(math.log(unit.lr / 0.1))
        seconds = 9.0 if unit.problem == TWO else 1.0
        write(folder, unit, loss, seconds)
    names = [unit.problem.name for unit in Runs(folder).unfinished()]
    assert names == ["two"] * 14 + ["one"] * 14


def test_workers_give_the_same_results_as_this_process(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "a", "hdet", "prodigy")
    run_all(folder, 2, fakes.methods, fakes.load)
    assert folder.results() == fake_run(tmp_path / "b", "hdet", "prodigy").results()
    assert Runs(folder).unfinished() == []


def fail(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    raise ZeroDivisionError("the cause")


def die(problem: Problem, task: Task, lr: float, seed: int) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def failing() -> dict[str, Method]:
    return {**fakes.methods(), "hdet": fail}


def dying() -> dict[str, Method]:
    return {**fakes.methods(), "hdet": die}


def test_a_run_that_fails_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet")
    with pytest.raises(WorkerError, match=r"one, hdet, start(?s:.*)the cause"):
        run_all(folder, 1, failing, fakes.load)
    assert len(Runs(folder).unfinished()) == 14
    with pytest.raises(WorkerError, match="fewer --processes"):
        run_all(folder, 1, dying, fakes.load)
    run_all(folder, 1, fakes.methods, fakes.load)
    assert Runs(folder).unfinished() == []


def test_everything_is_run_from_all_starts_unless_told() -> None:
    assert [*map(start_label, STARTS)] == ["1/30", "1/10", "1/3", "1", "3", "10", "30"]
    assert start_label(0.3) == "0.3"
    assert start_point("hdet", 1 / 30) == "start1/30"
    assert start_point("prodigy", 30.0) == "startany"
    asked = plan()
    assert [p.name for p in asked.problems] == list(PROBLEMS)
    assert asked.methods == list(LABELS)
    assert (asked.starts, asked.seeds) == (list(STARTS), 3)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["robustness", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--problems", "nosuch"], "--problems: there is no nosuch: choose from text-adamw"),
        (["--methods", "[bold]"], "--methods: there is no [bold]: choose from hdet"),
        (["--starts", "1,x"], "--starts '1,x' must be numbers: try"),
        (["--starts", "1/0"], "--starts '1/0' must be numbers: try"),
        (["--starts", "1,-2"], "--starts '1,-2' must be numbers above 0: try"),
        (["--starts", "1,0.1,1/10"], "--starts 1,1/10,1/10 names one twice: leave"),
        (
            ["--resume", "/nowhere"],
            "/nowhere is not a run folder of `python -m benchmarks robustness`",
        ),
        (["--resume", "/nowhere", "--seeds", "2"], "and --seeds would change it: leave"),
    ],
)
def test_an_error_of_the_users_is_one_line(options: list[str], words: str) -> None:
    code, output = run(*options)
    assert code == 2
    assert output.startswith("python -m benchmarks robustness: ")
    assert words in output
    assert output.count("\n") == 1


def stop(folder: Folder, processes: int | None) -> None:
    raise KeyboardInterrupt


def run_fakes(folder: Folder, processes: int | None) -> None:
    run_all(folder, processes, fakes.methods, fakes.load)


def test_the_command_stops_resumes_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my run"
    options = ["--problems", "digits-sgd", "--methods", "ddp,hdet", "--seeds", "2"]
    monkeypatch.setattr(bench, "load", fakes.load)
    monkeypatch.setattr(bench, "run_all", stop)
    code, output = run(*options, "--out", str(out))
    assert code == 130
    assert f"python -m benchmarks robustness --resume '{out}'" in output
    code, output = run(*options, "--out", str(out))
    assert code == 2
    assert "holds a run already" in output
    monkeypatch.setattr(bench, "run_all", run_fakes)
    code, output = run("--resume", str(out), "--processes", "1")
    assert code == 0, output
    assert "plain DDP" in output
    assert (out / "report.html").exists()
