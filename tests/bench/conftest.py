"""What the tests of the benchmarks share."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> None:
    """Wait for no disk: what a power failure would leave is not what these tests ask."""
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda file: None)
