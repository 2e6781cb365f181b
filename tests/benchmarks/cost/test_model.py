"""The model of a sync's cost: by hand, at its limits, and against what the code does."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cost import model
from hdet.replica.ensemble import averaging, transfers
from hdet.replica.ensemble import buckets as plans
from hdet.replica.ensemble.groups import Replicas

ALL_REDUCES = [model.ring_seconds, model.tree_seconds, model.quicker_seconds]
nbytes = st.floats(1, 1e12)
ranks = st.integers(1, 4096)
bandwidth = st.floats(1e8, 1e12)
latency = st.floats(0, 1e-3)
times = st.floats(0, 10)


# --- the wire


def test_ring_and_tree_by_hand():
    # 4 ranks: each sends 2 * 3/4 of 100 bytes at 10 bytes/s, in 6 hops of 1 s.
    assert model.ring_seconds(100, 4, 10, 1) == pytest.approx(15 + 6)
    # Up and down: 2 * 100 bytes, and 2 * 2 hops.
    assert model.tree_seconds(100, 4, 10, 1) == pytest.approx(20 + 4)
    assert model.quicker_seconds(100, 4, 10, 1) == pytest.approx(21)
    assert model.quicker_seconds(1, 1024, 10, 1) == pytest.approx(0.2 + 20)


def test_hierarchical_by_hand():
    link, network = model.Wire(100, 0.0), model.Wire(10, 0.0)
    # 2 * 3/4 * 80 / 100 inside, then a quarter of the bytes over two nodes: 20 / 10.
    assert model.hierarchical_seconds(80, 8, 4, link, network) == pytest.approx(1.2 + 2)
    assert model.hierarchical_seconds(80, 4, 4, link, network) == pytest.approx(1.2)
    assert model.hierarchical_seconds(80, 2, 4, link, network) == pytest.approx(0.8)


@pytest.mark.parametrize("function", ALL_REDUCES)
@given(size=nbytes, speed=bandwidth, hop=latency)
def test_one_rank_sends_nothing(function, size, speed, hop):
    assert function(size, 1, speed, hop) == 0


@pytest.mark.parametrize("function", ALL_REDUCES)
@given(size=nbytes, more=nbytes, n=ranks, further=ranks, speed=bandwidth, hop=latency)
def test_more_bytes_and_more_ranks_take_no_less_time(
    function, size, more, n, further, speed, hop
):
    time = function(size, n, speed, hop) * (1 - 1e-9)
    assert function(size + more, n, speed, hop) >= time
    assert function(size, n + further, speed, hop) >= time


@given(size=nbytes, n=st.integers(2, 4096), speed=bandwidth)
def test_a_ring_without_latency_takes_between_one_and_two_times_the_bytes(size, n, speed):
    time = model.ring_seconds(size, n, speed, 0.0) * speed / size
    assert 1 - 1e-9 <= time <= 2


@given(size=nbytes, n=ranks)
def test_one_rank_in_each_node_leaves_the_network_alone(size, n):
    link, network = model.Wire(1e11, 1e-6), model.Wire(1e10, 1e-5)
    flat = model.quicker_seconds(size, n, network.bandwidth, network.latency)
    assert model.hierarchical_seconds(size, n, 1, link, network) == flat


def test_a_roll_call_of_one_asks_nobody():
    assert model.roll_call_seconds(1, 1.0) == 0
    assert model.roll_call_seconds(2, 1.0) == 6


# --- the memory


@given(elements=st.integers(1, 10**9), kept=st.sampled_from([2, 4, 8]))
def test_buckets_hold_every_element_and_no_more_than_they_can(elements, kept):
    buckets = model.bucket_elements(elements, kept)
    assert sum(buckets) == elements
    assert max(buckets) * model.wire_itemsize(kept) <= model.BUCKET_BYTES


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sizes_are_those_of_the_averaging(dtype):
    assert plans.BUCKET_BYTES == model.BUCKET_BYTES
    assert plans.RUN == model.RUN
    assert plans.wire_dtype(dtype).itemsize == model.wire_itemsize(dtype.itemsize)
    tensor = torch.zeros(7_000_000, dtype=dtype)
    buckets = plans.Plan([tensor], None).buckets
    assert [b.in_place for b in buckets] == [model.in_place(dtype.itemsize)] * len(buckets)
    assert len(buckets) == len(model.bucket_elements(tensor.numel(), dtype.itemsize))


# What each call reads and writes, each tensor as often as that.
TOUCHES = {
    "cat": lambda pieces, out: [*pieces, out],
    "clone": lambda a: [a, a],
    "div_": lambda a, _: [a, a],
    "_foreach_div_": lambda a, _: [*a, *a],
    "_foreach_sub_": lambda a, b: [*a, *a, *b],
    "_foreach_copy_": lambda a, b: [*a, *b],
    "_foreach_norm": lambda a: a,
    "sub_": lambda a, b: [a, a, b],
    "linalg_vector_norm": lambda a: [a],
}


class Traffic(TorchDispatchMode):
    """Counts calls that work on whole runs, and the bytes that they touch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        result = func(*args, **kwargs)
        if name in TOUCHES:
            given = args[:1] if "norm" in name else args
            touched = TOUCHES[name](*given, *[kwargs[k] for k in kwargs if k == "out"])
            runs = [t for t in touched if t.numel() >= model.RUN]
            self.bytes += sum(t.numel() * t.itemsize for t in runs)
            self.calls[name] += bool(runs)
        return result


@pytest.mark.parametrize("kept", [2, 4])
@pytest.mark.parametrize("measured", [False, True])
def test_traffic_and_calls_are_those_of_the_averaging(kept, measured, monkeypatch):
    arrived = SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr(transfers.dist, "all_reduce", lambda *_, **__: arrived)
    runs, in_a_bucket = 12, 2
    dtype = {2: torch.bfloat16, 4: torch.float32}[kept]
    tensor = torch.ones(runs * model.RUN, dtype=dtype)
    bucket = in_a_bucket * model.RUN * model.wire_itemsize(kept)
    with Traffic() as seen:
        one = averaging.Averaging([tensor], Replicas(fallback_size=2), bucket)
        one.health()
        one.run(measure=measured)
    looked_at = 1 - 2 * in_a_bucket / runs
    packing, checking = model.packing(kept), model.checking(kept)
    unpacking = model.unpacking(kept, measured, packed=kept == 2)
    expected = packing.memory + (1 - looked_at) * packing.cache + looked_at * checking.memory
    expected += unpacking.memory + unpacking.cache
    assert seen.bytes / tensor.numel() == pytest.approx(expected)
    if measured:
        assert seen.calls.total() / runs <= model.CHECK_CALLS + model.RUN_CALLS


def test_copies_by_hand():
    rates = model.Rates(memory=1.0, cache=2.0)
    cap = model.BUCKET_BYTES // 4
    one = model.copies(3 * cap, 4, rates)
    # To copy takes 8 from memory, and to look 4 from the cache; to look alone 4; to divide 8.
    assert one.check == pytest.approx(2 * cap * (8 + 4 / 2) + cap * 4)
    assert one.packs == pytest.approx([0, 0, cap * 8])
    assert one.unpacks == pytest.approx([cap * 8] * 3)
    assert one.total == pytest.approx(cap * (20 + 4 + 8 + 24))


# --- both together


def test_the_pipeline_by_hand():
    assert model.pipeline_seconds([], [], []) == 0
    assert model.pipeline_seconds([5], [0], [2]) == 7
    # While the second is on the wire the first is unpacked: 5, 10, then 2.
    assert model.pipeline_seconds([5, 5], [0, 0], [2, 2]) == 12
    # The third is packed at 5 + 2 = 7 to 10, before the wire is free, and arrives at 15.
    assert model.pipeline_seconds([5, 5, 5], [0, 0, 3], [2, 2, 2]) == 17
    # With slow copies they decide: 1 + 9, 9 to pack, 9, then 9 once it is here.
    assert model.pipeline_seconds([1, 1, 1], [0, 0, 9], [9, 9, 9]) == 1 + 9 + 9 + 9 + 9


@given(buckets=st.lists(st.tuples(times, times, times), min_size=1, max_size=20))
def test_the_pipeline_is_between_its_parts_and_their_sum(buckets):
    wires, packs, unpacks = (list(column) for column in zip(*buckets, strict=True))
    packs[:2] = [0.0] * len(packs[:2])
    took = model.pipeline_seconds(wires, packs, unpacks) + 1e-9
    assert took >= max(sum(wires) + unpacks[-1], sum(packs) + sum(unpacks))
    assert took <= sum(wires) + sum(packs) + sum(unpacks) + 2e-9


@given(first=st.floats(1e-6, 1e-2), slope=st.floats(1e-12, 1e-8))
def test_a_line_is_found(first, slope):
    sizes = [2.0**k for k in (10, 16, 20, 22, 25)]
    found = model.fit_line(sizes, [first + slope * n for n in sizes])
    assert found == pytest.approx((first, slope), rel=1e-3, abs=1e-7 * first)


def seen(piece=0.0, small=0.0, per_byte=1e-9):
    rates = model.Rates(memory=1e10, cache=1e11)
    return model.Measured(small, small, per_byte, rates, piece)


def test_a_prediction_has_every_part():
    load = model.Load(tensors=100, each=10_000, kept=4)
    bare = model.predict(load, seen())
    assert bare.wire == pytest.approx(4e6 * 1e-9)
    assert bare.path == pytest.approx(4e-3 + 1e6 * (20 / 1e10 + 8 / 1e11))
    assert bare.path == pytest.approx(bare.work)
    with_host = model.predict(load, seen(piece=1e-5))
    assert with_host.path - bare.path == pytest.approx(100 * 1e-5)
    late = model.predict(load, seen(small=1.0))
    assert late.path - bare.path == pytest.approx(2.0)


@given(tensors=st.integers(1, 3000), kept=st.sampled_from([2, 4]), gathers=st.integers(1, 2))
def test_a_predicted_path_is_between_the_wire_and_the_work(tensors, kept, gathers):
    load = model.Load(tensors, 100_000, kept, gathers)
    found = model.predict(load, seen(1e-6, 1e-5))
    assert found.wire < found.path <= found.work * (1 + 1e-9)


def test_shared_cores_take_turns():
    assert model.on_shared_cores(3.0, 4.0, processes=2, cores=2) == 4.0
    assert model.on_shared_cores(3.0, 4.0, processes=4, cores=2) == 8.0
    assert model.on_shared_cores(3.0, 4.0, processes=2, cores=8) == 3.0
