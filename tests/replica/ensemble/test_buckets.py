"""How tensors are laid out in buckets: whatever their sizes, each element once, in order."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hdet.replica.ensemble.buckets import RUN, Plan, planned

# Sizes around a run's, and small ones.
SIZES = st.lists(st.integers(1, 40) | st.integers(RUN - 2, 3 * RUN), min_size=1, max_size=6)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float64])


def spans(pieces, tensors):
    return [
        (p.tensor, *(p.span or slice(0, tensors[p.tensor].numel())).indices(2**62)[:2])
        for p in pieces
    ]


@given(SIZES, DTYPES, st.sampled_from([2**12, 2**21]), st.sampled_from(["cpu", "meta"]))
def test_every_element_is_in_one_piece_in_order(sizes, dtype, bucket_bytes, device):
    tensors = [torch.empty(n, dtype=dtype, device=device) for n in sizes]
    covered: dict[int, int] = dict.fromkeys(range(len(sizes)), 0)
    for bucket in Plan(tensors, bucket_bytes).buckets:
        assert bucket.buffer.nbytes <= bucket_bytes
        pieces = [piece for run in bucket.runs for piece in run.pieces]
        for tensor, start, stop in spans(pieces, tensors):
            assert covered[tensor] == start < stop
            covered[tensor] = stop
        assert all(len(run.pieces) == 1 for run in bucket.runs if bucket.in_place)
        slots = [slot for run in bucket.runs for slot in run.slots]
        offset = 0
        for slot in slots:
            assert slot.storage_offset() == offset
            offset += slot.numel()
        assert offset == bucket.buffer.numel()
        assert [run.part.numel() for run in bucket.runs] == [
            sum(slot.numel() for slot in run.slots) for run in bucket.runs
        ]
    assert list(covered.values()) == sizes


def test_a_tensor_of_a_sixteenth_of_a_bucket_is_reduced_in_place_and_a_smaller_one_packed():
    tensors = [torch.empty(63), torch.empty(64), torch.empty(64, dtype=torch.bfloat16)]
    buckets = Plan(tensors, 4096).buckets
    in_place = {r.pieces[0].tensor for b in buckets if b.in_place for r in b.runs}
    assert in_place == {1}


@pytest.mark.parametrize(("device", "runs"), [("cpu", 4), ("meta", 1)])
def test_a_cpu_packs_what_its_cache_holds_and_others_whole_buckets(device, runs):
    tensor = torch.empty(4 * RUN, device=device, dtype=torch.bfloat16)
    (bucket,) = Plan([tensor], 16 * RUN).buckets
    assert len(bucket.runs) == runs


def test_two_buffers_serve_all_buckets():
    plan = Plan([torch.empty(3000), torch.empty(50), torch.empty(700)], 1024)
    assert len(plan.buckets) > 2
    storages = {b.buffer.untyped_storage().data_ptr() for b in plan.buckets}
    assert len(storages) == 2


# --- plans that are kept


def test_a_plan_is_kept_while_the_layout_is_the_same():
    tensors = [torch.ones(3, 4), torch.arange(3), torch.ones(2)]
    floats, plan = planned(tensors)
    assert [t is u for t, u in zip(floats, [tensors[0], tensors[2]], strict=True)] == [True] * 2
    tensors[0].mul_(2)
    assert planned(iter(tensors))[1] is plan
    assert planned(tensors, 2048)[1] is not plan


CHANGES = {
    "in other memory": lambda t: t.clone(),
    "transposed": lambda t: t.t(),
    "of another dtype": lambda t: t.half(),
    "shorter": lambda t: t[:3],
    "empty": lambda t: t[:0],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tensor_that_has_changed_is_planned_anew(change):
    tensors = [torch.ones(2), torch.ones(4, 4)]
    floats, plan = planned(tensors)
    tensors[1].data = CHANGES[change](tensors[1].data)
    floats, later = planned(tensors)
    assert later is not plan
    assert len(floats) == (1 if change == "empty" else 2)


def test_other_tensors_are_planned_anew_and_shared_ones_once():
    first, second = torch.ones(2), torch.ones(3)
    _, plan = planned([first, second])
    floats, later = planned([first, second, first])
    assert later is not plan
    assert len(floats) == 2
    assert planned([])[0] == []


def test_complex_tensors_are_seen_as_real_ones_each_time():
    tensor = torch.ones(3, dtype=torch.complex64)
    _, plan = planned([tensor])
    floats, again = planned([tensor])
    assert again is plan
    assert floats[0].shape == (3, 2)


def test_a_kept_plan_keeps_no_tensor_alive():
    tensors = [torch.ones(2), torch.ones(2**20), torch.ones(5, dtype=torch.bfloat16)]
    plan = planned(tensors)[1]
    gone = [weakref.ref(t) for t in tensors]
    memory = weakref.ref(plan)
    del tensors, plan
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert memory() is None
