"""The layering and the public names of the design, read from the source."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tomli

import hdet

SOURCE = Path(hdet.__file__).parent
ROOT = SOURCE.parents[1]
SHARED = {"errors", "seeding", "state"}
CORE = {"replica", "federated", "bilevel"}
# Who may import whom, by the first name below hdet; `replica` by the folder in it as well.
ALLOWED = {
    "cli": {"commands"},
    "commands": {"", "demo", "doctor", "report", "errors"},
    "__main__": {"cli"},
    "demo": CORE | {"", "demo", "integrations", "report", *SHARED},
    # It tells by the library's own rules, which are not public.
    "doctor": CORE | {"", "doctor", "replica.ensemble", "replica.explorer", *SHARED},
    "report": CORE | {"", "report", *SHARED},
    # Below `replica` only the parts that import no torch: see tests/replica/test_pure_parts.py.
    "integrations": CORE
    | {"", "errors", "integrations", "replica.ensemble", "replica.explorer", "state"},
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
        "import sys, torch, torch.optim.lr_scheduler\n"
        "before = set(sys.modules); import hdet; hdet.Explorer\n"
        "new = set(sys.modules) - before; print('torch.distributed.tensor' in new)\n"
        "print(*sorted({m.split('.')[0] for m in new}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    sharded, *names = out.stdout.split()
    assert sharded == "False"
    assert set(names) - set(sys.stdlib_module_names) == {"hdet"}


def test_the_wheel_holds_the_library_and_no_benchmarks():
    targets = tomli.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert targets["targets"]["wheel"] == {"packages": ["src/hdet"]}
    assert not [f for f in SOURCE.rglob("*") if f.name in ("bench", "benchmarks", "records")]
    own = tomli.loads((ROOT / "benchmarks" / "pyproject.toml").read_text())
    assert own["project"]["name"] != "hdet"


def public_names(package: str) -> Iterator[tuple[str, Any]]:
    """Yield the functions and classes that a package re-exports, alone or with their module."""
    module = import_module(package)
    tree = ast.parse(Path(module.__file__ or "").read_text())
    aliases = [a for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    for name in sorted(alias.name for alias in aliases if alias.name == alias.asname):
        thing = getattr(module, name)
        if callable(thing):
            yield name, thing
        elif package != "hdet":
            for inner, value in vars(thing).items():
                if getattr(value, "__module__", "") == thing.__name__ and inner[0] != "_":
                    yield f"{name}.{inner}", value


def undescribed(function: Callable[..., Any], docs: list[str], in_text: bool) -> list[str]:
    """Return the arguments that no docstring describes.

    They stand under `Args` or `Attributes`; with `in_text` also in backticks anywhere.
    """
    names = [n for n in inspect.signature(function).parameters if n not in ("self", "cls")]
    # What comes after the first of the two, to the end: such lines mean arguments there.
    sections = "\n".join(re.split(r"\n(?:Args|Attributes):\n", d, maxsplit=1)[-1] for d in docs)
    text = "\n".join(docs) if in_text else ""
    return [
        n
        for n in names
        if not re.search(rf"^ *\**{n}\b.*:", sections, re.M) and f"`{n}`" not in text
    ]


@pytest.mark.parametrize(
    "package",
    [
        *("hdet", "hdet.federated", "hdet.bilevel"),
        *("hdet.integrations.flower", "hdet.integrations.transformers"),
        "hdet.integrations.optax",
    ],
)
def test_public_docstrings_describe_every_argument(package):
    name = package.removeprefix("hdet.integrations.")
    if name in ("flower", "transformers", "optax"):
        pytest.importorskip({"flower": "flwr"}.get(name, name))
    missing, seen = {}, 0
    for name, thing in public_names(package):
        seen += 1
        made_by_users = not inspect.isclass(thing) or not (
            issubclass(thing, Enum | BaseException) or getattr(thing, "_is_protocol", False)
        )
        if made_by_users:
            missing[name] = undescribed(thing, [inspect.getdoc(thing) or ""], False)
        for method, function in inspect.getmembers(thing, inspect.isfunction):
            if function.__module__.startswith("hdet") and not method.startswith("_"):
                bases = [c for c in thing.__mro__ if hasattr(c, method)]
                docs = [inspect.getdoc(getattr(base, method)) or "" for base in bases]
                missing[f"{name}.{method}"] = undescribed(function, docs, True)
    assert seen > (0 if "transformers" in package else 2)
    assert {name: found for name, found in missing.items() if found} == {}


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


def box(part: str) -> str:
    """Return the box of docs/images/architecture.svg that a part is drawn in."""
    boxes = {"commands": "cli", "__main__": "cli"} | dict.fromkeys(SHARED, "imported by all")
    return boxes.get(part, part)


def test_the_picture_of_the_architecture_shows_who_imports_whom():
    arrows = set()
    for file in set(SOURCE.rglob("*.py")) - {SOURCE / "__init__.py"}:
        inside = file.relative_to(SOURCE).with_suffix("").parts
        part = box(part_of(list(inside[:-1] if len(inside) > 1 else inside)))
        if part not in ("replica", "imported by all"):
            within = part.startswith("replica")
            others = {box(i if within else i.split(".")[0]) for i in imports(file)}
            arrows |= {f"{part} {other}" for other in others - {part, "imported by all"}}
    # By `import hdet` the command line asks for the version, and the demo for `replica`.
    arrows = {arrow.strip() for arrow in arrows} - {"cli", "demo"} | {"demo replica"}
    picture = (ROOT / "docs" / "images" / "architecture.svg").read_text()
    assert set(re.findall(r'data-arrow="([^"]+)"', picture)) == arrows
