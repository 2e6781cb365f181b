"""`hdet doctor` as a user calls it: alone, and under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")
from typer.testing import CliRunner

import hdet
from hdet.commands import app
from hdet.doctor import machine

ROOT = Path(__file__).parents[2]
RUNS = "tests.doctor.runs"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher, and the search path as it was."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])


def doctor(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.output


def test_alone_it_tells_versions_and_the_device():
    code, said = doctor()
    assert code == 0
    assert f"torch {torch.__version__}, hdet {hdet.__version__}" in said
    assert "processes  1 on 1 machine, " in said
    assert said.endswith("Nothing is wrong.\n")


def test_of_a_good_run_it_tells_what_the_search_costs():
    code, said = doctor(f"{RUNS}:make")
    assert code == 0
    for line in (
        "ok     optimizer  AdamW, parameter groups: 1",
        "ok     scheduler  CosineAnnealingLR, 10000 steps",
        "ok     explored   lr/0",
        "note   replicas   1: Explorer is your scheduler alone; start several processes",
        "ok     search     about 60 optimizer steps, 0.6 % of 10000, and 40 to 80 of warm-up",
        "ok     trials     possible",
        "ok     sync       every 100 optimizer steps, 1 % of 10000; about 1 % is good: 100",
    ):
        assert line in said


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("unwrapped", "note   trials     none, so that the search ends with the climb"),
        ("without_a_probe", "note   search     none: it takes a probe"),
        (
            "endless",
            "every 100 optimizer steps; about 1 % of the run is good: tell its --steps",
        ),
        ("explores_nothing", "note   explored   nothing"),
    ],
)
def test_what_finds_less_is_noted(name, line):
    code, said = doctor(f"{RUNS}:{name}")
    assert code == 0
    assert line in said


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("short", "wrong  length     `Explorer(sync_every=100)` has fewer than 10 syncs"),
        ("lbfgs", "wrong  run        `Explorer` does not work with LBFGS"),
        ("optimizer_alone", "returned SGD: it must return the hdet.Explorer\n"),
        ("parses_arguments", "wrong  run        SystemExit: 2 (runs.py, line "),
        ("misspelt", "AttributeError: module 'torch.nn' has no attribute 'Liner' (runs.py"),
        ("missing", 'wrong  run        tests.doctor.runs has no function "missing"'),
    ],
)
def test_what_cannot_be_is_wrong(name, line):
    code, said = doctor(f"{RUNS}:{name}")
    assert code == 1
    assert line in said
    assert said.endswith("1 problem to fix.\n")


def test_a_module_that_is_not_there_is_wrong():
    code, said = doctor("no.such.module:make")
    assert code == 1
    assert "ModuleNotFoundError: No module named 'no'" in said


def test_the_length_can_be_told():
    code, said = doctor(f"{RUNS}:endless", "--steps", "400")
    assert code == 1
    assert "about 60 optimizer steps, 15 % of 400" in said
    assert "every 100 optimizer steps, 25 % of 400; about 1 % is good: 4" in said


def test_a_length_without_a_run_is_refused():
    code, said = doctor("--steps", "400")
    assert code == 2
    assert "needs MODULE:FUNCTION" in said


def test_what_srun_has_started_without_torchrun_is_wrong(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "")
    assert machine.started_alone() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    code, said = doctor()
    assert code == 1
    assert "SLURM_STEP_NUM_TASKS=8, and RANK and WORLD_SIZE are not set" in said


def test_a_process_that_is_shown_its_own_device_alone_takes_it(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert machine.take_device() == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RuntimeError, match="LOCAL_RANK=3, and this machine shows 2 CUDA"):
        machine.take_device()


def test_what_a_process_may_have_for_itself_is_no_setting(monkeypatch):
    for name in ("NCCL_IB_HCA", "GLOO_SOCKET_IFNAME", "NCCL_DEBUG_FILE", "NCCL_HOSTID"):
        monkeypatch.setenv(name, "own")
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    assert [k for k, v in machine.settings().items() if v in ("own", "Ring")] == ["NCCL_ALGO"]


def test_a_launcher_that_tells_too_little_is_one_line(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    code, said = doctor()
    assert code == 1
    assert said.startswith("hdet doctor: the processes do not meet: ")
    assert "MASTER_ADDR" in said


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("name", "code", "last"),
    [
        ("make", 0, "Nothing is wrong."),
        ("fails_on_rank_1", 1, "1 problem to fix."),
    ],
)
def test_under_torchrun_there_is_one_report(name, code, last):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "hdet", "doctor", f"{RUNS}:{name}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == code, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == last
    assert [line.split()[1] for line in lines].count("versions") == 1
    assert "processes  2 on 1 machine, cpu, backend gloo" in done.stdout
    assert "ok     all-reduce 25 MiB in " in done.stdout
    if code:
        assert "first on rank 1: FileNotFoundError: train.bin (runs.py, line " in lines[-2]
    else:
        assert "note   replicas   2: the search may end too early" in done.stdout
        assert "ok     sync       sends 1 MB, in about " in done.stdout
