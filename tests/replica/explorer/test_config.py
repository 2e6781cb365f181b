import dataclasses
import math

import pytest

import hdet


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("search_start", 0.0, r"must be a number in \(0, 1\]: leave it out for 0.05"),
        ("probe_mix", 1.5, r"must be a number in \(0, 1\]"),
        ("track_step", math.nan, r"must be a number in \[0, 10\]"),
        ("search_end_confidence", 0.5, r"must be a number in \[-1, 0\]"),
        ("divergence_threshold", -1.0, r"must be a number in \[0, inf\]"),
        ("noise_deviations", math.inf, r"must be a number in \(0, inf\)"),
        ("max_rollbacks", 2.0, r"must be a whole number in \[1, 1000\]: leave it out for 3"),
        ("calm_syncs", True, "must be a whole number"),
        ("ridge", "0.01", "must be a number"),
    ],
)
def test_a_constant_out_of_its_range_is_refused(name, value, words):
    with pytest.raises(ValueError, match=rf"`SearchConfig\({name}=.*{words}"):
        hdet.SearchConfig(**{name: value})


def test_the_ends_that_switch_a_part_off_are_allowed():
    off = hdet.SearchConfig(
        search_start=1.0,
        track_step=0,
        probe_mix=1.0,
        divergence_threshold=math.inf,
        spike_threshold=math.inf,
    )
    assert off.divergence_threshold == math.inf


def test_every_constant_is_explained_and_none_can_be_set():
    config = hdet.SearchConfig()
    for field in dataclasses.fields(config):
        assert f"        {field.name}: " in (hdet.SearchConfig.__doc__ or "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.track_step = 0.2  # pyright: ignore[reportAttributeAccessIssue]
