"""What the documentation says is there, runs, and comes from the records."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hdet

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(*command: str, timeout: int = 100, says: str = "") -> str:
    """Return what a command prints.

    With `says` it has to print that, whatever its exit code: gloo may abort a process that has
    done all, with or without us.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=timeout, check=False
    )
    assert says in done.stdout if says else done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_point_to_what_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_snippets_run(page):
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(code, str(page), "exec"), {})


def test_the_readme_shows_both_commands_and_every_public_name_is_documented():
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
    text = "".join(page.read_text() for page in PAGES)
    for name in hdet.__all__:
        if not name.startswith("__"):
            assert f"hdet.{name}" in text, name
    for part in (hdet.federated, hdet.bilevel):
        for name, found in part.__dict__.items():
            if isinstance(found, type):
                assert f"{name}`" in text or f"{name}(" in text, name


@pytest.mark.ranks
@pytest.mark.slow
def test_the_explorer_example_trains_from_both_ends():
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    said = run(*launch, "--nproc-per-node", "2", "examples/explorer.py", "--steps", "60")
    assert said.count("held-out loss") == 2
    assert "(climb)" in said


@pytest.mark.ranks
@pytest.mark.slow
def test_the_huggingface_example_finds_a_rate():
    pytest.importorskip("transformers")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", "2", "examples/huggingface.py", "--steps", "200"]
    said = run(*launch, *options, says="held-out loss")
    rate, loss = re.findall(r"rate (\S+), held-out loss (\S+)", said)[0]
    assert float(rate) > 3e-4  # it was given 1e-4
    assert float(loss) < 4.1  # that of a model that knows nothing is log(64) = 4.16


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "processes", "options"),
    [
        ("fsdp2.py", 4, ["--steps", "120", "--folder"]),
        ("finetune_lora.py", 2, ["--steps", "160"]),
    ],
)
def test_an_example_finds_a_rate_and_a_lower_loss(example, processes, options, tmp_path):
    if "lora" in example:
        pytest.importorskip("transformers")
        pytest.importorskip("peft")
    if options[-1] == "--folder":
        options = [*options, str(tmp_path / "checkpoint")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", str(processes), f"examples/{example}", *options]
    said = run(*launch, *options, says="held-out loss")
    rate, loss = re.findall(r"rate (?:found )?(\S+), held-out loss ([\d.]+)", said)[0]
    assert 1e-4 < float(rate) < 0.3  # it was given 1e-4 and 0.3
    assert float(loss) < 3  # of weights that know nothing 3.6 and 7.7
    if "--folder" in options:
        assert (tmp_path / "checkpoint" / ".metadata").exists()
