"""What `Explorer` tells of itself, as one process can see it; `tests/ranks` has the rest."""

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

import hdet
from tests.helpers import small_model, two_groups

SCHEDULES = {
    "none": (None, [0.05, 0.05]),
    "a callable": (lambda o: lambda step: 0.5, [0.05, 0.05]),
    "cosine": (lambda o: schedulers.CosineAnnealingLR(o, 16), [0.05, 0.05]),
    "warm-up": (lambda o: schedulers.LinearLR(o, 0.1, total_iters=9), [0.05, 0.05]),
    "one cycle": (lambda o: schedulers.OneCycleLR(o, [0.1, 0.2], 30), [0.1, 0.2]),
}


def made(name, **settings):
    optimizer = torch.optim.AdamW(two_groups(small_model()), lr=0.05)
    make = SCHEDULES[name][0]
    return hdet.Explorer(optimizer, make and make(optimizer), **settings)


@pytest.mark.parametrize("name", SCHEDULES)
def test_where_nothing_was_found_the_rates_to_write_are_the_users_own(name):
    explorer = made(name)
    for _ in range(5):
        explorer.optimizer.step()
        explorer.step(1.0)
    assert explorer.found() == SCHEDULES[name][1]


def with_factors(explorer, factors, ended_at=None, highest=None):
    """Load a state in which these factors have been found."""
    state = explorer.state_dict()
    state["exploration"]["syncs"] = 3
    logs = {f"lr/{k}": torch.tensor(x).double().log().item() for k, x in factors.items()}
    state["exploration"]["coordinates"].update(logs)
    for group in state["schedule"]["groups"]:
        if ended_at is not None:  # as states had it that knew no whole schedule
            del group["peak"]
            group["ended_at"] = ended_at
            group["highest"] = highest or group["highest"]
    explorer.load_state_dict(state)
    return explorer


def test_what_was_found_is_a_factor_on_what_the_user_wrote():
    explorer = with_factors(made("one cycle"), {0: 0.5, 1: 3.0})
    assert explorer.found() == pytest.approx([0.05, 0.6])
    explorer = made("none", explore=[hdet.lr(groups=[1])])
    assert with_factors(explorer, {1: 3.0}).found() == pytest.approx([0.05, 0.15])


def test_an_older_state_goes_on_at_its_rate_where_a_search_held_the_schedule():
    # The search ended at 0.02, and the schedule has risen to 0.05 by now.
    explorer = with_factors(made("none"), {0: 1.5}, ended_at=0.02)
    assert explorer.metrics()["base_lr"] == pytest.approx([1.5 * 0.02, 0.02])
    assert explorer.found() == pytest.approx([1.5 * 0.02, 0.02])
    # And here it has risen to 0.06 and fallen to 0.04 since.
    falling = made("none")
    for group in falling.optimizer.param_groups:
        group["lr"] = 0.04
    with_factors(falling, {0: 1.5}, ended_at=0.02, highest=0.06)
    rates = [1.5 * 0.02 * 0.04 / 0.06, 0.02 * 0.04 / 0.06]
    assert falling.metrics()["base_lr"] == pytest.approx(rates)
    assert [g["lr"] for g in falling.optimizer.param_groups] == pytest.approx(rates)


def test_an_explorer_shows_itself_in_three_lines():
    explorer = with_factors(made("none"), {0: 0.5, 1: 3.0})
    assert repr(explorer).splitlines() == [
        "Explorer: track; step 0, syncs 0, replicas 1",
        "  base values: lr/0 0.5, lr/1 3; learning rates: 0.025, 0.15",
        "  last decision: none yet",
    ]
    assert "base values: none explored;" in repr(made("none", explore=[]))
