"""What is run, in which order, and how a run that was stopped goes on."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.commands import app
from benchmarks.core.pool import WorkerError
from benchmarks.robustness import command as bench
from benchmarks.robustness.methods import LABELS
from benchmarks.robustness.problems import PROBLEMS, Method, Outcome, Problem
from benchmarks.robustness.runs import (
    STARTS,
    TIERS,
    Batch,
    Folder,
    Runs,
    Unit,
    batched,
    start_label,
    start_point,
    sweep_lr,
)
from benchmarks.robustness.study import plan, run_all
from benchmarks.tasks import Task
from tests.benchmarks.robustness import fakes
from tests.benchmarks.robustness.fakes import ONE, TWO, do, fake_run, settings


def new_folder(path: Path, *names: str, problems: tuple[Problem, ...] = (ONE,)) -> Folder:
    folder = Folder(path)
    folder.create(settings(*names, problems=problems))
    return folder


def write(folder: Folder, unit: Unit, loss: float, seconds: float) -> None:
    run = fakes.outcome(unit.problem, loss, unit.lr, unit.lr)
    folder.append(unit, {"lr": unit.lr, **vars(run), "seconds": seconds})


def test_the_sweep_comes_first_then_its_best_refined_then_the_starts(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "ddp", "hdet", "prodigy")
    known, later = Runs(folder).units()
    assert {unit.point for unit in known} == {f"sweep{k:+d}" for k in range(-6, 7, 2)}
    assert [unit.lr for unit in known[::2]] == pytest.approx(
        [0.1 * 10 ** (k / 2) for k in range(-3, 4)]
    )
    # Two methods from seven starts and one without any, and the noise; two seeds each.
    assert later == 2 * (7 + 7 + 1 + 1)
    assert do(folder) == 14
    refined = Runs(folder).unfinished()
    assert [(unit.point, unit.lr) for unit in refined[::2] if isinstance(unit, Unit)] == [
        ("sweep-1", pytest.approx(0.1 * 10**-0.25)),
        ("sweep+1", pytest.approx(0.1 * 10**0.25)),
    ]
    assert do(folder) == 4
    known, left = Runs(folder).units()
    assert (len(known) - 18, left) == (later, 0)
    hdet = [unit for unit in known if unit.method == "hdet" and unit.seed == 0]
    assert [unit.lr for unit in hdet] == pytest.approx([0.1 * start for start in STARTS])
    free = [unit for unit in known if unit.method == "prodigy"]
    assert [unit.point for unit in free] == ["startany"] * 2
    assert [unit.lr for unit in known if unit.point == "noise"] == [0.1, 0.1]
    assert do(folder) == later
    assert Runs(folder).unfinished() == []


def test_a_run_that_was_stopped_does_only_what_has_no_result(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet")
    while do(folder):
        pass
    file = tmp_path / "results.jsonl"
    *others, last = file.read_text().splitlines(keepends=True)
    file.write_text("".join(others) + last[:20])
    (unit,) = Runs(folder).unfinished()
    assert unit.key == json.loads(last)["key"]
    run_all(folder, 1, fakes.methods, fakes.load)
    assert file.read_text() == "".join([*others, last])


@pytest.mark.parametrize(
    ("centre", "ends", "coarse", "best"),
    [
        (0.1, (-6, 6), 0, 0),
        # The bottom lies two decades up, then far out of reach.
        (0.1 * 10**-2, (-6, 10), 8, 8),
        (0.1 * 10**-4.5, (-6, 10), 10, 11),
        # The fakes diverge a decade and a half above the bottom.
        (0.1 * 10**2, (-10, 6), -8, -8),
    ],
)
def test_the_sweep_goes_on_while_the_best_is_outermost(
    tmp_path: Path, centre: float, ends: tuple[int, int], coarse: int, best: int
) -> None:
    problem = replace(ONE, centre=centre)
    folder = fake_run(tmp_path, "hdet", problems=(problem,))
    found = Runs(folder).sweep_points(problem)
    assert found == sorted({*range(ends[0], ends[1] + 1, 2), coarse - 1, coarse + 1})
    assert Runs(folder).best_point(problem) == best


def test_one_seed_that_diverges_counts_as_its_initial_loss(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet")
    do(folder)
    unit = next(u for u in Runs(folder).units()[0] if u.point == "sweep+0" and u.seed == 1)
    write(folder, unit, math.nan, 1.0)
    last = (tmp_path / "results.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["held_out"] is None
    assert Runs(folder).losses("one", "ddp", "sweep+0") == [1.0, fakes.INITIAL]
    do(folder)
    assert Runs(folder).best_point(ONE) in {-2, 2, -1, 1}


def test_a_problem_that_no_rate_trains_is_an_error(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet", problems=(replace(ONE, name="bad", centre=1e6),))
    do(folder)
    with pytest.raises(ValueError, match=r"no rate of the sweep of bad .* correct its"):
        Runs(folder).units()


def test_the_calibrated_rate_is_the_geometric_mean_of_all_problems_of_an_optimizer(
    tmp_path: Path,
) -> None:
    four = replace(ONE, name="four", centre=0.1 * 10**0.5)
    folder = new_folder(tmp_path, "hdet", problems=(ONE, four, TWO))
    runs = Runs(folder)
    assert runs.calibrated(ONE) is None
    while do(folder):
        pass
    runs = Runs(folder)
    rates = [sweep_lr(p, runs.best_point(p) or 0) for p in (ONE, four)]
    assert runs.calibrated(ONE) == pytest.approx((rates[0] * rates[1]) ** 0.5)
    assert runs.calibrated(TWO) == pytest.approx(0.1)


def test_the_fast_tier_does_the_plain_runs_of_a_problem_together(tmp_path: Path) -> None:
    units = [
        Unit(problem, method, "start1", 0.1, seed)
        for problem in (ONE, replace(TWO, optimizer="muon"))
        for method in ("ddp", "rerun", "hdet")
        for seed in range(2)
    ]
    batch, *others = batched(units)
    assert isinstance(batch, Batch)
    assert batch.units == units[:4]
    assert others == units[4:]
    folder = new_folder(tmp_path)
    done = fakes.outcome(ONE, 1.0, 0.1, 0.1)
    folder.append(batch, {unit.key: {"lr": 0.1, **vars(done)} for unit in batch.units})
    assert list(folder.results()) == [unit.key for unit in batch.units]


def test_a_batch_gives_what_single_runs_give(tmp_path: Path) -> None:
    problem = replace(PROBLEMS["regression-sgd"], steps=5)
    found = {}
    for tier in TIERS:
        folder = Folder(tmp_path / tier)
        folder.create(replace(settings("ddp", problems=(problem,)), tier=tier, starts=[1.0]))
        run_all(folder, 1)
        found[tier] = folder.results()
    assert list(found["fast"]) == list(found["full"])
    for key, one in found["fast"].items():
        other = found["full"][key]
        if other["held_out"] is not None and other["held_out"] < other["initial"]:
            assert one["held_out"] == pytest.approx(other["held_out"], rel=1e-4)
        assert one["lr"] == pytest.approx(other["lr"])


def test_longest_first(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, "hdet", problems=(ONE, TWO))
    for unit in Runs(folder).units()[0]:
        loss = 1 + 0.1 * abs(math.log(unit.lr / 0.1))
        seconds = 9.0 if unit.problem == TWO else 1.0
        write(folder, unit, loss, seconds)
    found = [unit for unit in Runs(folder).unfinished() if isinstance(unit, Unit)]
    assert [unit.problem.name for unit in found] == ["two"] * 4 + ["one"] * 4


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
    fast = plan(tier="fast")
    assert {p.split for p in fast.problems} == {"tuning"}
    assert [*map(start_label, fast.starts)] == ["1/30", "1", "30"]
    assert fast.seeds == 2
    assert plan(tier="fast", starts=[2.0], seeds=5).starts == [2.0]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["robustness", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--problems", "nosuch"],
            "--problems: there is no nosuch: choose from regression",
        ),
        (["--methods", "[bold]"], "--methods: there is no [bold]: choose from hdet"),
        (["--tier", "slow"], "--tier 'slow' must be one of fast, full."),
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
    options = ["--problems", "teacher-sgd", "--methods", "ddp,hdet", "--seeds", "2"]
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
