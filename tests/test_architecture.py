"""The layering and the public names of the design, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hdet

SOURCE = Path(hdet.__file__).parent
SHARED = {"errors", "seeding", "state"}
CORE = {"replica", "federated", "bilevel"}
# Who may import whom, by the first name below hdet; `replica` by the folder in it as well.
ALLOWED = {
    "cli": {"commands"},
    "commands": {"", "demo", "report", "errors"},
    "__main__": {"cli"},
    "demo": CORE | {"", "demo", "integrations", "report", *SHARED},
    "report": CORE | {"", "report", *SHARED},
    "integrations": CORE | {"", "errors", "integrations", "state"},
    "": CORE,
    "errors": set(),
    "seeding": set(),
    "state": {"errors"},
    "federated": {"federated", *SHARED},
    "bilevel": {"bilevel", *SHARED},
    "replica": {"replica.ensemble", "replica.explorer", "replica.paper"},
    "replica.ensemble": {"replica.ensemble", *SHARED},
    "replica.explorer": {"replica.ensemble", "replica.explorer", *SHARED},
    "replica.paper": {"replica.ensemble", "replica.paper", *SHARED},
}


def part_of(names: list[str]) -> str:
    """Return what the rules are about: `replica.paper` for `hdet.replica.paper.controller`."""
    part = names[0] if names else ""
    return ".".join(names[:2]) if part == "replica" and len(names) > 1 else part


def imports(file: Path) -> set[str]:
    """Return the parts of hdet that a file imports."""
    package = ["hdet", *file.relative_to(SOURCE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            deeper = [f"{stem}.{alias.name}" for alias in node.names]
            known = [m for m in deeper if (SOURCE / m.replace(".", "/")[5:]).exists()]
            files = [m for m in deeper if (SOURCE / f"{m.replace('.', '/')[5:]}.py").exists()]
            modules = known + files or [stem]
        else:
            continue
        assert not any(m.split(".")[0] == "benchmarks" for m in modules), file
        found |= {part_of(m.split(".")[1:]) for m in modules if m.split(".")[0] == "hdet"}
    return found


@pytest.mark.parametrize(
    "file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE))
)
def test_no_arrow_points_the_wrong_way(file):
    inside = file.relative_to(SOURCE).with_suffix("").parts
    part = part_of(list(inside[:-1] if inside[-1] == "__init__" or len(inside) > 1 else inside))
    assert imports(file) <= ALLOWED[part], part


def test_importing_hdet_loads_torch_and_nothing_heavier():
    code = (
        "import sys, torch, torch.distributed.tensor, torch.optim.lr_scheduler\n"
        "before = set(sys.modules); import hdet\n"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = set(out.stdout.split()) - set(sys.stdlib_module_names) - {"hdet", "torch"}
    assert heavy == set()


def test_the_public_names_are_there_and_documented():
    names = ["OneCycleAutoLR", "Explorer", "lr", "weight_decay", "betas", "attribute", "probe"]
    names += ["average_", "add_noise_", "multipliers"]
    for name in names:
        assert getattr(hdet, name).__doc__, name
    assert hdet.__version__


def test_every_module_says_what_it_is():
    for file in SOURCE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text())), file


def test_no_file_holds_two_ideas():
    for file in SOURCE.rglob("*.py"):
        lines = len(file.read_text().splitlines())
        assert lines <= 420, f"{file} has {lines} lines"


def test_the_library_never_reseeds_its_caller():
    for file in SOURCE.rglob("*.py"):
        assert "torch.manual_seed(" not in file.read_text(), file
