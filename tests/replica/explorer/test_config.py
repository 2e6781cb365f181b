import dataclasses
import inspect
import math

import pytest

import hdet


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("climb_start", 0.0, r"must lie in \(0, 1\]: the default is 0.001"),
        ("probe_mix", 1.5, r"must lie in \(0, 1\]"),
        ("track_step", math.nan, r"must lie in \[0, 10\]"),
        ("hold_share", 1.5, r"must lie in \[0, 1\]"),
        ("trial_span", 1.0, "must lie in"),
        ("divergence_threshold", -1.0, "must be at least 0"),
        ("noise_deviations", math.inf, "must be finite and above 0"),
        ("max_rollbacks", 2.0, "must be a whole number of at least 1: the default is 3"),
        ("calm_syncs", True, "must be a whole number"),
        ("ridge", "0.01", "must be finite and above 0"),
    ],
)
def test_a_constant_out_of_its_range_is_refused(name, value, words):
    with pytest.raises(ValueError, match=rf"`SearchConfig\({name}=.*{words}"):
        hdet.SearchConfig(**{name: value})


def test_the_ends_that_switch_a_part_off_are_allowed():
    off = hdet.SearchConfig(
        climb_start=1.0,
        max_trials=0,
        hold_gain=0,
        track_step=0,
        probe_mix=1.0,
        divergence_threshold=math.inf,
        spike_threshold=math.inf,
    )
    assert off.divergence_threshold == math.inf


def test_every_constant_is_explained_and_none_can_be_set():
    config = hdet.SearchConfig()
    for field in dataclasses.fields(config):
        assert f"\n    {field.name}: " in (inspect.getdoc(hdet.SearchConfig) or "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.track_step = 0.2  # pyright: ignore[reportAttributeAccessIssue]
