import math

import pytest

from hdet.replica.paper.base_rates import BaseRates
from hdet.replica.paper.controller import Controller

RULE = Controller(loss_scale=0.1, lr_of_lr=0.5, momentum=0.5, decay=0.0)


def acted():
    rates = BaseRates(2)
    rates.act(RULE, [1.0, 1.2], [[0.09, 0.11], [0.18, 0.22]], sync=4)
    return rates


def test_a_state_goes_on_where_it_was():
    again = BaseRates(2)
    again.load_state_dict(acted().state_dict())
    assert again.state_dict() == acted().state_dict()
    assert again.acted_at == 4


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("base_lrs", [0.1], "must have 2 items, and has 1"),
        ("base_lrs", [0.1, math.nan], "base_lrs.1` = nan, which must lie in"),
        ("base_lrs", [0.1, -0.1], "base_lrs.1` = -0.1, which must lie in"),
        ("velocities", None, "must be a list"),
        ("velocities", [0.0, "1"], "velocities.1` = '1', which must lie in"),
        ("acted_at", -1, "acted_at` = -1"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(key, value, words):
    rates = acted()
    before = rates.state_dict()
    with pytest.raises(ValueError, match=words):
        rates.load_state_dict(before | {key: value})
    assert rates.state_dict() == before
