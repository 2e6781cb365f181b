"""Every diff leads to code that runs, in a script that has the usual names.

One process and one replica, on the CPU; a page of a framework is run in that framework, where
it is installed. Two pages are the exception: torchtitan's, whose Trainer is driven by tests of
its own, and the one on other frameworks, DeepSpeed and Ray. There the code is compiled, and
what it takes from hdet is looked up.
"""

import ast
import inspect
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import hdet

from .pages import PAGES, ROOT, blocks, name, new_side
from .spaces import STEPS, fit, space_of

DIFFS = [(name(p), new_side(d)) for p in PAGES for d in blocks(p.read_text(), "diff")]
NOT_RUN = ["docs/guides/torchtitan.md", "docs/guides/frameworks.md"]


def _of_pages(run: bool) -> Any:
    found = [(page, code) for page, code in DIFFS if (page not in NOT_RUN) == run]
    return pytest.mark.parametrize(("page", "code"), found, ids=[page for page, _ in found])


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Give a process group of one process, and a folder to write to."""
    monkeypatch.chdir(tmp_path)
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    before = dict(os.environ)
    yield
    dist.destroy_process_group()
    for key in os.environ.keys() - before.keys():
        del os.environ[key]
    if find_spec("accelerate"):
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


@_of_pages(run=True)
@pytest.mark.usefixtures("alone")
def test_a_diff_leads_to_code_that_runs(page, code):
    package, names = space_of(page, code)
    pytest.importorskip(package)
    with warnings.catch_warnings():
        # Of frameworks, about processors and data loaders; and that one replica tunes nothing.
        warnings.simplefilter("ignore")
        space = names()
        exec(compile(code, page, "exec"), space)
        if "configure_optimizers" in space:
            fit(space)
    if "for batch in loader" in code and "scheduler" in space:
        assert space["scheduler"].metrics()["step"] == STEPS


@_of_pages(run=False)
def test_what_is_not_run_compiles_and_calls_what_there_is(page, code):
    for node in ast.walk(ast.parse(code, page)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hdet"):
            defined = _names_of(ROOT / "src" / (node.module or "").replace(".", "/"))
            assert {alias.name for alias in node.names} <= defined
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("hdet."):
            called = getattr(hdet, ast.unparse(node.func).removeprefix("hdet."))
            given = {str(keyword.arg): None for keyword in node.keywords}
            inspect.signature(called).bind(*node.args, **given)


def _names_of(module: Path) -> set[str]:
    """Return what a module of hdet defines or imports, read from its source."""
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    body = ast.parse(file.read_text()).body
    imports = [n for n in body if isinstance(n, ast.ImportFrom)]
    defined = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return {*defined, *(a.asname or a.name for n in imports for a in n.names)}
