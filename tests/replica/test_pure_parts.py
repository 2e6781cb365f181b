"""The parts that decide are arithmetic on plain numbers, for other frameworks too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hdet

REPLICA = Path(hdet.__file__).parent / "replica"
PURE = {
    "ensemble.gathered",
    "ensemble.permutation",
    "explorer.attribution",
    "explorer.config",
    "explorer.decision",
    "explorer.decision_line",
    "explorer.deferral",
    "explorer.dimensions",
    "explorer.divergence",
    "explorer.exploration",
    "explorer.held_schedule",
    "explorer.loss_tracker",
    "explorer.rate_guard",
    "explorer.rate_search",
    "explorer.recovery",
    "paper.controller",
    "paper.spread",
}


def imported(name: str) -> set[str]:
    """Return what a module imports when it is run, local modules by their names in replica."""
    file = REPLICA / f"{name.replace('.', '/')}.py"
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["hdet", "replica", *name.split(".")[:-1]]
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    return {module.removeprefix("hdet.replica.") for module in found}


@pytest.mark.parametrize("name", sorted(PURE))
def test_what_decides_imports_no_torch_and_nothing_that_communicates(name):
    standard = {"collections.abc", "copy", "dataclasses", "math", "statistics", "typing"}
    assert imported(name) <= PURE | standard | {"hdet.errors", "hdet.seeding", "hdet.state"}


def test_what_decides_loads_where_torch_is_not_installed():
    names = [f"hdet.replica.{name}" for name in sorted(PURE)]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from importlib import import_module\nfor name in {names}: import_module(name)\n"
        "import hdet; print(hdet.SearchConfig().max_trials)\n"
        "try: hdet.Explorer\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    number, error = done.stdout.splitlines()
    assert number == "3"
    assert "`hdet.Explorer` needs PyTorch: pip install torch" in error
