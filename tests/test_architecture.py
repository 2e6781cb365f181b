"""The layering and the public names of the design, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hdet

SOURCE = Path(hdet.__file__).parent
CORE = {"replica", "federated", "bilevel"}
ALLOWED = {
    "cli": {"commands"},
    "commands": {"", "bench", "errors"},
    "__main__": {"cli"},
    "bench": CORE | {"", "bench", "errors", "seeding", "state"},
    "integrations": CORE | {"", "errors", "integrations", "state"},
    "": CORE,
    "errors": set(),
    "seeding": set(),
    "state": {"errors"},
    **{part: {part, "errors", "seeding", "state"} for part in CORE},
}


def part_of(module: str) -> str:
    """Return the first name under hdet: `replica` for `hdet.replica.spread`."""
    names = module.split(".")
    return names[1] if len(names) > 1 else ""


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
        found |= {part_of(m) for m in modules if m.split(".")[0] == "hdet"}
    return found


@pytest.mark.parametrize(
    "file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE))
)
def test_no_arrow_points_the_wrong_way(file):
    inside = file.relative_to(SOURCE).with_suffix("")
    part = "" if inside.name == "__init__" and len(inside.parts) == 1 else inside.parts[0]
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
