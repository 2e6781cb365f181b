"""What is shipped: which Pythons and torches it says it runs on, and that its files can.

No older Python is started: its grammar reads every file, and what it lacks is looked for.
"""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomli
import yaml

import hdet

SOURCE = Path(hdet.__file__).parent
ROOT = SOURCE.parents[1]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text())
OLDEST = (3, 10)
# What came with Python 3.11 and later, of the modules that are used here.
NEWER = {
    "asyncio": {"Barrier", "Runner", "TaskGroup", "timeout"},
    "builtins": {"BaseExceptionGroup", "ExceptionGroup", "PythonFinalizationError"},
    "collections.abc": {"Buffer"},
    "contextlib": {"chdir"},
    "copy": {"replace"},
    "datetime": {"UTC"},
    "enum": {"EnumCheck", "ReprEnum", "StrEnum", "global_enum", "member", "verify"},
    "functools": {"Placeholder"},
    "hashlib": {"file_digest"},
    "inspect": {"getmembers_static", "markcoroutinefunction"},
    "itertools": {"batched"},
    "logging": {"getHandlerByName", "getHandlerNames", "getLevelNamesMapping"},
    "math": {"cbrt", "exp2", "fma", "sumprod"},
    "operator": {"call", "is_none", "is_not_none"},
    "sys": {"activate_stack_trampoline", "exception", "monitoring"},
    "tomllib": {"load", "loads"},
    "typing": {
        "LiteralString", "Never", "NoDefault", "NotRequired", "ReadOnly", "Required", "Self",
        "TypeAliasType", "TypeIs", "TypeVarTuple", "Unpack", "assert_never", "assert_type",
        "clear_overloads", "dataclass_transform", "get_overloads", "override", "reveal_type",
    },
    "warnings": {"deprecated"},
}  # fmt: skip


def newer_names(tree: ast.AST) -> set[str]:
    """Return what a module uses that Python 3.10 does not have."""
    found, modules = set(), {"builtins": "builtins"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
            found |= {alias.name for alias in node.names if alias.name == "tomllib"}
        elif isinstance(node, ast.ImportFrom) and node.module in NEWER and not node.level:
            names = {alias.name for alias in node.names}
            found |= {f"{node.module}.{name}" for name in names & NEWER[node.module]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id, "")
            if node.attr in NEWER.get(module, ()):
                found.add(f"{module}.{node.attr}")
        elif isinstance(node, ast.Name) and node.id in NEWER["builtins"]:
            found.add(node.id)
        elif isinstance(node, ast.Subscript) and any(
            isinstance(inner, ast.Starred) for inner in getattr(node.slice, "elts", ())
        ):
            found.add("a star in an index")
    return found


def test_every_file_is_of_the_oldest_python():
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text(), str(file), feature_version=OLDEST)
        assert newer_names(tree) == set(), file


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from enum import StrEnum", {"enum.StrEnum"}),
        ("import datetime as d\nd.UTC", {"datetime.UTC"}),
        ("import tomllib", {"tomllib"}),
        ("x[*rows]", {"a star in an index"}),
        ("raise ExceptionGroup('', [])", {"ExceptionGroup"}),
        ("from enum import Enum\nx[rows]", set()),
    ],
)
def test_what_is_newer_is_seen(code, found):
    assert newer_names(ast.parse(code)) == found


def test_the_metadata_and_the_settings_of_the_tools_name_the_same_oldest_python():
    project = PROJECT["project"]
    assert project["requires-python"] == ">={}.{}".format(*OLDEST)
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == "{}.{}".format(*OLDEST)
    assert "target-version" not in PROJECT["tool"]["ruff"]  # it goes by requires-python
    minors = [
        int(c.rsplit(".", 1)[1])
        for c in project["classifiers"]
        if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert minors == list(range(OLDEST[1], OLDEST[1] + len(minors)))
    assert sys.version_info[:2] < OLDEST or sys.version_info[1] in minors


def test_the_library_needs_torch_and_what_torchs_collectives_of_objects_need():
    assert PROJECT["project"]["dependencies"] == ["numpy>=1.26", "torch>=2.6"]


def test_the_licence_is_told_once():
    # A classifier beside the expression is refused by the index (PEP 639).
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert not [c for c in PROJECT["project"]["classifiers"] if c.startswith("License")]


def test_the_citation_names_the_version_and_every_author_once():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    for work in [citation, *citation["references"]]:
        people = [tuple(sorted(person.items())) for person in work["authors"]]
        assert len(set(people)) == len(people), work["title"]


def test_the_wheel_holds_the_library_and_nothing_else(tmp_path):
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(r"hdet-[\d.]+-py3-none-any\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as opened:
        names = {n for n in opened.namelist() if ".dist-info/" not in n}
    there = {f for f in SOURCE.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert names == {str(Path("hdet") / f.relative_to(SOURCE)) for f in there}
