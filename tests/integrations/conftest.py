"""Tests of integrations run where their framework is installed."""

import importlib.util
import logging
import os
import warnings

import pytest

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
collect_ignore_glob = []

if not importlib.util.find_spec("lightning"):
    collect_ignore_glob += ["*lightning*", "*fabric*"]
if not importlib.util.find_spec("transformers"):
    collect_ignore_glob += ["*transformers*", "trainers.py"]
if not importlib.util.find_spec("peft"):
    collect_ignore_glob += ["test_transformers_parts.py"]
if not importlib.util.find_spec("accelerate"):
    collect_ignore_glob += ["*accelerate*"]
if not importlib.util.find_spec("torchtitan") or not importlib.util.find_spec("triton"):
    collect_ignore_glob += ["*titan*"]
if not importlib.util.find_spec("flwr"):
    collect_ignore_glob += ["*flower*", "local_grid.py"]
else:
    # Flower's own imports warn of what its dependencies will take away.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import flwr.serverapp.strategy  # noqa: F401
    logging.getLogger("flwr").setLevel(logging.WARNING)


@pytest.fixture
def warned(caplog):
    """Return a function that gives the warnings and errors logged so far, as one text."""
    logger = logging.getLogger("flwr")
    logger.addHandler(caplog.handler)
    # A record that reaches the root logger, too, stands there twice.
    yield lambda: "\n".join(
        r.getMessage() for r in dict.fromkeys(caplog.records) if r.levelname != "INFO"
    )
    logger.removeHandler(caplog.handler)
