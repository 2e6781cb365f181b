"""The integration's door: what it offers, and what it says where Flower is missing."""

import importlib
import sys

import pytest

from hdet.integrations import flower


@pytest.mark.parametrize(
    "name",
    [
        *("FedHyper", "SelectClients", "FedExP", "Decay"),
        *("local_training", "reply", "answer_query"),
    ],
)
def test_every_public_name_is_documented(name):
    assert getattr(flower, name).__doc__


def test_without_flower_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(ImportError, match=r'pip install "hdet\[flower\]"'):
        importlib.reload(flower)
