"""The `hdet` command: quick help, one line for an error, and Ctrl-C at any moment."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

import hdet
from hdet.commands import app

from .interrupted import signalled, started

COMMANDS = ("demo", "doctor", "report", "show", "watch")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), []]
)
def test_help_and_version_load_neither_torch_nor_plotly(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv[1:] = {arguments}\n"
        "from hdet.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('loaded:', *{'torch', 'plotly', 'numpy', 'sklearn'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.rstrip().endswith("loaded:")
    assert (hdet.__version__ if arguments == ["--version"] else "Usage: hdet") in said


def test_the_help_names_demos_and_options() -> None:
    code, said = run("demo", "--help")
    assert code == 0
    for word in ("learning-rate", "federated", "bilevel", "--out", "--length", "--seed"):
        assert word in said


def test_without_its_packages_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None\nfrom hdet.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "The hdet command needs typer, which the library itself does not: "
        'pip install "hdet[cli]"\n'
    )


def test_a_demo_without_its_packages_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    code, said = run("demo", "bilevel", "--out", str(tmp_path / "run"))
    assert code == 2
    assert said == 'hdet demo: needs sklearn: pip install "hdet[bilevel,cli]"\n'
    assert not (tmp_path / "run").exists()


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    code, said = run("demo", "--out", str(tmp_path))
    assert code == 2
    assert said == f"hdet demo: --out {tmp_path} is not empty: name another folder.\n"


@pytest.mark.parametrize("out", ["/dev/null/x", "/proc/x", "x" * 300])
def test_a_folder_that_cannot_be_made_is_one_line(out: str) -> None:
    code, said = run("demo", "--out", out)
    assert code == 2
    assert said.startswith("hdet demo: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("option", [["--length", "0"], ["--seed", "-1"], ["nosuch"]])
def test_what_cannot_be_is_refused(option: list[str]) -> None:
    code, said = run("demo", *option)
    assert code == 2
    assert "Invalid value" in said


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to a process group")
@pytest.mark.parametrize("moment", ["starting", "step"])
def test_ctrl_c_ends_all_processes_with_one_line(tmp_path: Path, moment: str) -> None:
    out = tmp_path / "run"
    with started("-u", "-m", "hdet", "demo", "--length", "0.1", "--out", str(out)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line.split(":")[-1 if moment == "starting" else 0]:
                break
        # It returns when nobody can write any more: the ranks have ended, too.
        said = signalled(process, signal.SIGINT)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Stopped."
    assert "Traceback" not in said
