import io
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hdet.replica.ensemble.groups import Replicas
from hdet.replica.explorer.snapshots import Snapshots
from hdet.state import Entries
from tests.helpers import small_model


def made(capacity=4, model=None, replicas=None):
    model = model or small_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return model, Snapshots(optimizer, model, replicas or Replicas(), capacity)


def fill(model, value):
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)


def climbed(count, capacity=4):
    """Return a model whose weights were k at the log rate k, and its snapshots."""
    model, snapshots = made(capacity)
    for k in range(count):
        fill(model, k)
        snapshots.take(10 * k, float(k))
    return model, snapshots


def value_of(model):
    (value,) = {float(x) for p in model.parameters() for x in p.detach().flatten()}
    return value


def test_it_goes_back_to_the_newest_at_or_below_a_rate():
    model, snapshots = climbed(4)
    for limit, expected in ((2.5, 2), (2.0, 2), (99.0, 3), (0.0, 0)):
        restored = snapshots.restore(limit)
        assert restored is not None
        assert restored.step == 10 * expected
        assert restored.log_rate == value_of(model) == expected


def test_where_none_is_low_enough_nothing_changes():
    model, snapshots = climbed(3)
    fill(model, 7)
    assert snapshots.restore(-0.1) is None
    assert value_of(model) == 7
    snapshots.clear()
    assert snapshots.taken == ()
    assert snapshots.restore(99.0) is None


def test_when_full_every_second_one_goes_and_every_second_is_taken():
    seen = []
    model, snapshots = made(capacity=4)
    for k in range(13):
        snapshots.take(k, 0.0)
        seen.append([s.step for s in snapshots.taken])
    assert seen[3] == [0, 1, 2, 3]
    assert seen[4] == [0, 2, 4]
    assert seen[7] == [0, 2, 4, 6]
    assert seen[8] == seen[11] == [0, 4, 8]
    assert seen[12] == [0, 4, 8, 12]


@given(st.integers(2, 9), st.integers(1, 200), st.integers(1, 5))
def test_any_number_of_steps_is_covered_evenly_in_bounded_memory(capacity, steps, replicas):
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 0.1)
    ensembles = [
        Snapshots(optimizer, None, Replicas(fallback_rank=r, fallback_size=replicas), capacity)
        for r in range(replicas)
    ]
    taken = ()
    for t in range(steps):
        for snapshots in ensembles:
            snapshots.take(t, 0.0)
        (taken,) = {snapshots.taken for snapshots in ensembles}
        assert 0 < len(taken) <= capacity
        kept = [len(snapshots._kept) for snapshots in ensembles]
        assert sum(kept) == len(taken)
        assert max(kept) <= math.ceil(capacity / replicas)
    steps_taken = [s.step for s in taken]
    gaps = {b - a for a, b in pairwise(steps_taken)}
    assert len(gaps) <= 1
    assert steps_taken[0] == 0
    assert steps - 1 - steps_taken[-1] < max(gaps, default=1)


def test_weights_of_any_kind_and_buffers_come_back_in_place():
    model = nn.Module()
    kinds = {
        "narrow": torch.ones(2, dtype=torch.bfloat16),
        "turned": torch.ones(2, 3, dtype=torch.float64).t(),
        "two parts": torch.full((2,), 1 + 2j),
        "frozen": torch.ones(2),
    }
    for name, values in kinds.items():
        model.register_parameter(name, nn.Parameter(values, name != "frozen"))
    model.register_buffer("mean", torch.ones(2))
    model.register_buffer("count", torch.ones((), dtype=torch.int64))
    _, snapshots = made(2, model)
    snapshots.take(0, 0.0)
    everything = dict([*model.named_parameters(), *model.named_buffers()])
    before = {name: t.detach().clone() for name, t in everything.items()}
    places = [t.data_ptr() for t in everything.values()]
    with torch.no_grad():
        for t in everything.values():
            t.mul_(3)
    assert snapshots.restore(0.0)
    for name, t in everything.items():
        expected = before[name] * (3 if name in ("frozen", "count") else 1)
        assert torch.equal(t, expected), name
    assert places == [t.data_ptr() for t in everything.values()]


def test_after_layers_were_frozen_older_ones_are_gone():
    model, snapshots = climbed(3)
    next(model.parameters()).requires_grad_(False)
    assert snapshots.restore(99.0) is None
    snapshots.take(50, 1.0)
    assert [s.step for s in snapshots.taken] == [50]


def test_there_have_to_be_two():
    with pytest.raises(ValueError, match="capacity"):
        made(1)


def loaded(state, **kwargs):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    model, snapshots = made(**kwargs)
    snapshots.assign(snapshots.parsed(Entries(state, "Explorer")))
    return model, snapshots


def test_a_resumed_run_takes_and_restores_the_same():
    model, snapshots = climbed(6)
    twin, its = loaded(snapshots.state_dict())
    assert its.taken == snapshots.taken
    for k in range(6, 20):
        for m, s in ((model, snapshots), (twin, its)):
            fill(m, k)
            s.take(10 * k, float(k))
        assert its.taken == snapshots.taken
    for limit in range(20):
        assert its.restore(limit) == snapshots.restore(limit)
        assert value_of(twin) == value_of(model)


def test_a_state_is_a_copy():
    model, snapshots = climbed(1)
    state = snapshots.state_dict()
    state["taken"][0]["tensors"][0].fill_(9)
    snapshots.restore(0.0)
    assert value_of(model) == 0


def test_those_of_another_number_of_processes_are_dropped_with_a_warning(caplog):
    _, snapshots = climbed(3)
    _, other = loaded({**snapshots.state_dict(), "shape": [2, 2], "coordinate": [0, 0]})
    assert other.taken == ()
    assert "saved by 2x2 processes and are loaded by 1: they are dropped" in caplog.text


def test_another_ranks_state_says_what_there_is_and_gives_nothing(caplog):
    two = Replicas(fallback_rank=0, fallback_size=2)
    model, snapshots = made(4, replicas=two)
    for k in range(4):
        snapshots.take(k, float(k))
    other = Replicas(fallback_rank=1, fallback_size=2)
    _, its = loaded(snapshots.state_dict(), replicas=other)
    assert its.taken == snapshots.taken
    assert its.restore(99.0) is None
    assert "the state is another rank's" in caplog.text


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stride": 0}, "stride"),
        ({"calls": -1}, "calls"),
        ({"taken": [{"step": 0, "log_rate": math.nan, "owner": 0}]}, "log_rate"),
        ({"taken": [{"step": 0, "log_rate": 0.0, "owner": 1}]}, "owner"),
        ({"taken": [{"step": 0, "log_rate": 0.0, "owner": 0, "tensors": []}]}, "tensors"),
    ],
)
def test_a_damaged_state_is_refused(change, match):
    _, snapshots = climbed(2)
    state = {**snapshots.state_dict(), **change}
    with pytest.raises(ValueError, match=match):
        snapshots.parsed(Entries(state, "Explorer"))


def test_a_state_of_another_model_is_refused():
    _, snapshots = climbed(2)
    _, other = made(model=nn.Linear(2, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"taken.0.tensors"):
        other.parsed(Entries(snapshots.state_dict(), "Explorer"))
