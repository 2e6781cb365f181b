"""States of an `Explorer` that only observes or is frozen; `tests/ranks` has the training."""

import pytest

from tests.replica.explorer.test_explorer import explorer, refused, stepped


def test_a_state_of_before_there_were_modes_is_one_that_tunes():
    state = stepped().state_dict()
    assert (state.pop("mode"), state.pop("frozen")) == ("tune", False)
    again = explorer(freeze_after=3)
    again.load_state_dict(state)
    assert again.metrics()["step"] == 5
    assert again.metrics()["phase"] == "track"
    assert not again.state_dict()["frozen"]


@pytest.mark.parametrize("older", [False, True])
def test_what_was_found_is_not_given_up_by_observing(older):
    state = stepped().state_dict()
    if older:
        del state["mode"], state["frozen"]
    words = 'mode` = \'tune\', which must be "observe".*load it with mode="tune"; freeze_after='
    refused(explorer(mode="observe"), state, words)


def test_a_run_that_was_observed_goes_on_by_tuning():
    observed = explorer(mode="observe", probe=lambda: 1.0)
    for _ in range(5):
        observed.optimizer.step()
        observed.step(1.0)
    rates = observed.get_last_lr()
    assert observed.metrics()["phase"] == "observe"
    again = explorer(probe=lambda: 1.0)
    assert again.state_dict()["exploration"]["search"]["phase"] == "climb"
    again.load_state_dict(observed.state_dict())
    assert again.get_last_lr() == rates
    assert again.metrics()["phase"] == "track"
    state = again.state_dict()
    assert state["mode"] == "tune"
    # From the schedule's own rate on, as where the state of a plain scheduler is loaded.
    assert state["exploration"]["search"]["phase"] == "done"
    assert set(state["exploration"]["coordinates"].values()) == {0.0}


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [({"freeze_after": 4}, True), ({"freeze_after": 6}, False), ({}, False)],
)
def test_a_frozen_state_stays_frozen_where_that_is_asked_for(settings, frozen):
    state = stepped().state_dict() | {"frozen": True}
    again = explorer(**settings)
    again.load_state_dict(state)
    assert again.state_dict()["frozen"] == frozen
    assert again.metrics()["phase"] == ("frozen" if frozen else "track")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"mode": "watch"}, "mode` = 'watch', which must be one of tune, observe"),
        ({"frozen": 1}, "frozen` = 1, which must be True or False"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(entry, words):
    refused(stepped(), stepped().state_dict() | entry, words)
