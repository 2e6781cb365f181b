"""What has to be the same on every replica, as 32 bits."""

import torch
from torch.optim import lr_scheduler as schedulers

from hdet.replica.ensemble.agreement import digest, public_numbers
from tests.helpers import small_model

FACTS = {"seed": 3, "spread": 0.1, "explore": [("log", 0.3)], "state": {"a": None, "b": True}}


def test_the_order_of_facts_and_the_kind_of_list_do_not_matter():
    other = dict(reversed(FACTS.items()))
    assert digest(FACTS) == digest({**other, "explore": [["log", 0.3]]})


def test_every_fact_matters_to_the_last_bit():
    changed = [
        {**FACTS, "seed": 4},
        {**FACTS, "spread": 0.1 + 2**-56},
        {**FACTS, "explore": [("log", 0.3), ("log", 0.3)]},
        {**FACTS, "state": {"a": None, "b": False}},
        {**FACTS, "more": 0},
        {key: value for key, value in FACTS.items() if key != "seed"},
    ]
    assert len({digest(facts) for facts in [FACTS, *changed]}) == 1 + len(changed)
    assert 0 <= digest(FACTS) < 2**32


def test_it_is_the_same_in_every_process():
    assert digest(FACTS) == 3422764167


def test_of_a_scheduler_its_settings_and_its_step_count_and_not_its_rates():
    def numbers(t_max, steps, lr=0.1):
        optimizer = torch.optim.SGD(small_model().parameters(), lr=0.1)
        scheduler = schedulers.SequentialLR(
            optimizer,
            [schedulers.ConstantLR(optimizer), schedulers.CosineAnnealingLR(optimizer, t_max)],
            [3],
        )
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
            optimizer.param_groups[0]["lr"] *= lr / 0.1
        return public_numbers(scheduler.state_dict())

    assert numbers(10, 5) == numbers(10, 5) == numbers(10, 5, lr=0.2)
    assert numbers(10, 5) != numbers(11, 5)
    assert numbers(10, 5) != numbers(10, 6)
