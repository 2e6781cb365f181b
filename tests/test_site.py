"""The site builds without a warning, asks no other host, and has every public name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_architecture import public_names

pytest.importorskip("mkdocs")
from mkdocstrings import Inventory

ROOT = Path(__file__).parent.parent
INTEGRATIONS = {
    "flower": None,
    "lightning": ["HDETCallback"],
    "optax": ["Explorer"],
    "torchtitan": ["explore"],
    "trackers": ["MLflow", "TensorBoard", "Tracker", "WandB"],
    "transformers": ["HDETCallback"],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the folder of the site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def documented(site):
    """Return the names that the API pages have an entry for."""
    with (site / "objects.inv").open("rb") as file:
        return set(Inventory.parse_sphinx(file))


@pytest.mark.parametrize("package", ["hdet", "hdet.federated", "hdet.bilevel"])
def test_the_api_pages_have_every_public_name(documented, package):
    assert {f"{package}.{name}" for name, _ in public_names(package)} <= documented


@pytest.mark.parametrize("framework", INTEGRATIONS)
def test_the_api_pages_have_every_public_name_of_an_integration(documented, framework):
    package = f"hdet.integrations.{framework}"
    names = INTEGRATIONS[framework]
    if names is None:
        pytest.importorskip("flwr")
        names = [name for name, _ in public_names(package)]
    assert {f"{package}.{name}" for name in names} <= documented


def test_there_is_a_page_for_every_integration():
    parts = (ROOT / "src/hdet/integrations").iterdir()
    assert set(INTEGRATIONS) == {part.stem for part in parts if part.stem[0] != "_"}


def test_the_changelog_is_on_the_site(site):
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading
    assert heading[1] in (site / "changelog" / "index.html").read_text()


def test_no_page_asks_another_host_for_anything(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"', page.read_text())
        loaded += re.findall(
            r'<link[^>]*\shref="([^"]+)"[^>]*rel="stylesheet"', page.read_text()
        )
        assert not [source for source in loaded if source.startswith(("http", "//"))], page


def test_every_command_is_on_the_site(site):
    from hdet.commands import app

    text = (site / "api" / "commands" / "index.html").read_text()
    for command in app.registered_commands:
        assert command.callback
        assert f'id="hdet-{command.callback.__name__}"' in text
