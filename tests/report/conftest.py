"""What the tests of reports share: a record of a real run, and a browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rank_runner import run_ranks

from .browser import Tab, chromium
from .runs import real_run


@pytest.fixture(scope="session")
def real_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "runs" / "x.jsonl"
    run_ranks(real_run, 2, str(path))
    phases = {json.loads(line).get("phase") for line in path.read_text().splitlines()}
    assert phases >= {"climb", "settle", "trial", "warmup", "track"}
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened
