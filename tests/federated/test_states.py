"""Every state of the federated part is read whole before any of it is assigned."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hdet.federated import Decay, GlobalRate, ServerLocalRate
from hdet.federated.compression import ErrorFeedback
from hdet.federated.selection import Selector
from tests.state_mutations import mutations, same

from .selection.population import SELECTORS, play

IDS = ["ann", 1, 2, 3, 4, 5]
# What goes on after it took up a state, and says what is wrong with it then.
Use = Callable[[], object]


def rate(rule: GlobalRate | ServerLocalRate) -> tuple[Any, Use]:
    for step in (1.0, 0.5, -0.2):
        rule.update(torch.tensor([step, 0.1, 0.3]))

    def use() -> None:
        assert 0 < rule.update(torch.ones(3)) < math.inf

    return rule, use


def decay() -> tuple[Any, Use]:
    rule = Decay(0.1)
    rule.update()

    def use() -> None:
        assert 0 < rule.update() <= 0.1

    return rule, use


def feedback() -> tuple[Any, Use]:
    memory = ErrorFeedback()
    for client in ("ann", 3):
        memory.compress(client, torch.tensor([1.0, 2.0, 3.0]), 0.4, decay=0.9)

    def use() -> None:
        for client in ("ann", 3):
            sent = memory.compress(client, torch.ones(3), 0.4, decay=0.9)
            assert bool(sent.values.isfinite().all())

    return memory, use


def selector(name: str) -> tuple[Selector, Use]:
    made: Selector = SELECTORS[name]()
    play(made, IDS, 7, count=2)

    def use() -> None:
        for chosen in play(made, IDS, 2, count=2, first=made.state_dict()["round"] + 1):
            assert len(set(chosen)) == 2

    return made, use


THINGS: dict[str, Callable[[], tuple[Any, Use]]] = {
    "GlobalRate": lambda: rate(GlobalRate()),
    "ServerLocalRate": lambda: rate(ServerLocalRate(0.1)),
    "Decay": decay,
    "ErrorFeedback": feedback,
    **{
        name: lambda name=name: selector(name)
        for name in (
            "random",
            "pow-d",
            "oort with pacer and blacklist",
            "heteroselect",
            "heteroselect stale",
            "heteroselect v2",
        )
    },
}


@pytest.mark.parametrize("name", THINGS)
def test_a_broken_state_is_refused_in_words_and_changes_nothing_or_is_a_good_one(name):
    thing, use = THINGS[name]()
    good, before = thing.state_dict(), thing.state_dict()
    refused = 0
    for what, bad in mutations(good):
        error = None
        try:
            thing.load_state_dict(bad)
        except ValueError as found:
            error = str(found)
        if error is None:
            use()
            thing.load_state_dict(good)
        else:
            refused += 1
            assert "load_state_dict" in error, what
        assert same(thing.state_dict(), before), what
    assert refused > 30


@pytest.mark.parametrize("name", THINGS)
def test_a_state_taken_up_is_a_copy(name):
    thing, use = THINGS[name]()
    state, before = thing.state_dict(), thing.state_dict()
    thing.load_state_dict(state)
    use()
    assert same(state, before)
