import math

from hypothesis import given
from hypothesis import strategies as st

from hdet.replica.explorer.flat_metrics import flat_metrics

FOUND = {
    "step": 120,
    "base_lr": [0.01],
    "replica_lr": [[0.009, 0.011]],
    "values": {"lr/0": 0.5, "weight_decay/0": 0.1},
    "replica_values": {"lr/0": [0.45, 0.55], "weight_decay/0": [0.05, 0.2]},
    "phase": "track",
    "rollbacks": 1,
    "exclusions": 0,
    "new_levels": 0,
    "decision": "step 120: rollback",
    "syncs": 11,
    "losses": [1.5, math.nan],
    "probes": [1.0, math.inf],
    "divergence": [0.1, 0.2],
    "slope": {"lr/0": -0.5, "weight_decay/0": 0.25},
    "excluded": [1],
    "sync_ms": 2.5,
    "probe_ms": 0.5,
}


def test_each_number_has_one_name_and_what_is_not_finite_none():
    assert flat_metrics(FOUND) == {
        "hdet/step": 120.0,
        "hdet/syncs": 11.0,
        "hdet/rollbacks": 1.0,
        "hdet/exclusions": 0.0,
        "hdet/new_levels": 0.0,
        "hdet/sync_ms": 2.5,
        "hdet/probe_ms": 0.5,
        "hdet/lr/base": 0.01,
        "hdet/lr/replica/0": 0.009,
        "hdet/lr/replica/1": 0.011,
        "hdet/lr_factor/base": 0.5,
        "hdet/weight_decay/base": 0.1,
        "hdet/weight_decay/replica/0": 0.05,
        "hdet/weight_decay/replica/1": 0.2,
        "hdet/loss/replica/0": 1.5,
        "hdet/probe/replica/0": 1.0,
        "hdet/divergence/replica/0": 0.1,
        "hdet/divergence/replica/1": 0.2,
        "hdet/slope/lr": -0.5,
        "hdet/slope/weight_decay": 0.25,
    }


def test_several_groups_have_their_index_in_the_name():
    several = {
        **FOUND,
        "base_lr": [0.01, 0.02],
        "replica_lr": [[0.01], [0.02]],
        "values": {"lr/0": 0.5, "lr/1": 0.25, "weight_decay/1": 0.1},
        "replica_values": {"lr/0": [0.5], "lr/1": [0.25], "weight_decay/1": [0.1]},
    }
    found = flat_metrics(several)
    assert found["hdet/lr/1/base"] == found["hdet/lr/1/replica/0"] == 0.02
    assert found["hdet/lr_factor/1/base"] == 0.25
    assert found["hdet/weight_decay/1/replica/0"] == 0.1


def test_before_the_first_sync_there_are_the_values_alone():
    keys = ("step", "base_lr", "replica_lr", "values", "replica_values", "rollbacks")
    found = flat_metrics({key: FOUND[key] for key in keys})
    assert found["hdet/lr/base"] == 0.01
    assert not any("loss" in name for name in found)


@given(st.lists(st.floats(), min_size=1, max_size=8))
def test_all_that_is_returned_is_a_finite_float(losses):
    found = flat_metrics({**FOUND, "losses": losses})
    assert all(type(x) is float and math.isfinite(x) for x in found.values())
    told = [found.get(f"hdet/loss/replica/{r}") for r in range(len(losses))]
    assert told == [x if math.isfinite(x) else None for x in losses]
