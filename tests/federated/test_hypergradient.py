"""One hypergradient for several rules: its value, its state, and the same rates as alone."""

import math

import pytest
import torch

from hdet.federated import GlobalRate, Hypergradient, ServerLocalRate
from hdet.state import Entries

DELTAS = torch.randn(6, 9, generator=torch.Generator().manual_seed(3)) / 10


def test_the_value_and_the_cosine_by_hand():
    hypergradient = Hypergradient()
    assert hypergradient.update(torch.tensor([3.0, 4.0])) == 0.0
    assert hypergradient.cosine == 0.0
    assert hypergradient.update(torch.tensor([0.0, 2.0])) == 8.0
    assert hypergradient.cosine == pytest.approx(0.8, rel=1e-15)
    assert hypergradient.update(torch.zeros(2)) == hypergradient.cosine == 0.0


@pytest.mark.parametrize("step", ["cosine", "absolute", "relative"])
def test_rules_that_share_one_hypergradient_move_as_each_of_them_alone(step):
    shared = Hypergradient()
    follow, alone = (
        (GlobalRate(step=step), ServerLocalRate(0.05, step=step, fall=0.5)) for _ in range(2)
    )
    for delta in DELTAS:
        shared.update(delta)
        for rule, other in zip(follow, alone, strict=True):
            assert rule.follow(shared) == other.update(delta)
            assert shared.value == other.hypergradient
    assert all(rule.previous_update is None for rule in follow)


@pytest.mark.parametrize("bad", [torch.full((9,), math.nan), torch.ones(8), "text"])
def test_a_refused_update_changes_nothing(bad):
    hypergradient = Hypergradient()
    hypergradient.update(DELTAS[0])
    with pytest.raises(ValueError, match=r"Hypergradient\.update\(update="):
        hypergradient.update(bad)
    assert hypergradient.update(DELTAS[1]) == pytest.approx(float(DELTAS[0] @ DELTAS[1]))


def test_a_state_goes_on_bit_for_bit():
    first, whole = Hypergradient(), Hypergradient()
    for delta in DELTAS[:3]:
        first.update(delta)
        whole.update(delta)
    resumed = Hypergradient().read(Entries(first.state_dict(), "Hypergradient"))
    for delta in DELTAS[3:]:
        assert resumed.update(delta) == whole.update(delta)
        assert resumed.cosine == whole.cosine
