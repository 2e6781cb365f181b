"""`average_` on real ranks: every shape of bucket, every dtype, every fault."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import hdet
from hdet.replica.ensemble import averaging
from hdet.seeding import generator
from tests.helpers import small_model
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.ranks

KIB = 1024
# Elements per bucket at the smallest cap: 256 float32, 128 float64.
LAYOUTS = {
    "several small tensors in one bucket": [(3,), (5,), (2, 2)],
    "sizes that do not fit together": [(100,), (200,), (7,), (249,), (1,)],
    "one tensor over the cap": [(1000,)],
    "small, over the cap, small": [(3,), (40, 30), (3,)],
    "exactly full buckets": [(256,), (256,), (128,), (128,)],
    "many buckets": [(300,)] * 9,
    "an empty tensor between": [(4,), (0, 3), (4,)],
    "scalars": [(), (), ()],
}
HALF = (torch.float16, torch.bfloat16)


def _filled(shape, dtype, rank, index):
    draws = torch.randn(shape, generator=generator(1, rank, index), dtype=torch.float64)
    return draws.to(dtype)


def _average(layout, dtypes):
    rank = dist.get_rank()
    tensors = [
        _filled(shape, dtypes[i % len(dtypes)], rank, i) for i, shape in enumerate(layout)
    ]
    kept = [(t.data_ptr(), t.stride()) for t in tensors]
    assert hdet.average_(tensors, bucket_bytes=KIB) == ()
    assert [(t.data_ptr(), t.stride()) for t in tensors] == kept
    return tensors


def _check(layout, dtypes):
    results = run_ranks(_average, 3, layout, dtypes)
    for i, shape in enumerate(layout):
        dtype = dtypes[i % len(dtypes)]
        wide = torch.float32 if dtype in HALF else dtype
        copies = [_filled(shape, dtype, rank, i).to(wide) for rank in range(3)]
        mean = torch.stack(copies).mean(0)
        for rank in range(3):
            got = results[rank][i]
            assert got.dtype == dtype
            # One rounding to the tensor's own dtype, after a sum of three in any order.
            tolerance = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(got, mean.to(dtype), rtol=tolerance, atol=tolerance)
            assert torch.equal(got, results[0][i])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_averaged_whole(name):
    _check(LAYOUTS[name], [torch.float32])


def test_mixed_dtypes_each_keep_their_own():
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
    _check([(30,), (700,), (300,), (400,), (3,), (5,), (7,), (900,)], dtypes)


def _half():
    # 2048 + 1 is not a float16: a sum in half precision would lose it on the way.
    value = [2048.0, 1.0, 1.0, 2.0][dist.get_rank()]
    tensor = torch.full((5,), value, dtype=torch.float16)
    big = torch.full((5,), 60000.0, dtype=torch.float16)
    hdet.average_([tensor, big])
    return tensor, big


def test_half_precision_is_summed_in_float32():
    for tensor, big in run_ranks(_half, 4):
        assert tensor.tolist() == [513.0] * 5
        assert big.tolist() == [60000.0] * 5


def _formats():
    rank = dist.get_rank()
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    image.fill_(rank)
    transposed = torch.full((4, 6), float(rank)).t()
    complex_ = torch.full((3,), complex(rank, -rank))
    shared = torch.full((2,), float(rank))
    whole = torch.full((3,), rank)
    parameter = nn.Parameter(torch.full((2,), float(rank)))
    hdet.average_([image, transposed, complex_, shared, shared, whole, parameter])
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert transposed.stride() == (1, 6)
    assert parameter.requires_grad
    return image, transposed, complex_, shared, whole, parameter.detach()


def test_memory_formats_complex_shared_and_whole_numbers():
    for rank, found in enumerate(run_ranks(_formats, 2)):
        image, transposed, complex_, shared, whole, parameter = found
        for tensor in (image, transposed, shared, parameter):
            assert bool((tensor == 0.5).all())
        assert bool((complex_ == complex(0.5, -0.5)).all())
        assert whole.tolist() == [rank] * 3


def _buffers():
    rank = dist.get_rank()
    model = nn.BatchNorm1d(3)
    mean, count = model.running_mean, model.num_batches_tracked
    assert mean is not None
    assert count is not None
    mean.fill_(rank)
    count.fill_(10 + rank)
    hdet.average_(model.parameters(), model=model)
    return mean, int(count)


def test_float_buffers_of_the_model_are_averaged_and_counters_are_not():
    results = run_ranks(_buffers, 2)
    assert [mean.tolist() for mean, _ in results] == [[0.5] * 3] * 2
    assert [count for _, count in results] == [10, 11]


def _broken(bad, where_bad):
    rank = dist.get_rank()
    tensors = [torch.full((300,), float(rank)), torch.full((300,), float(rank))]
    if rank in where_bad:
        tensors[1][7] = bad
    masked = hdet.average_(tensors, bucket_bytes=KIB)
    return masked, tensors


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_replica_is_left_out_as_a_whole_and_healed(bad):
    for masked, tensors in run_ranks(_broken, 4, bad, [2]):
        assert masked == (2,)
        assert all(bool((t == (0 + 1 + 3) / 3).all()) for t in tensors)


def _huge():
    tensor = torch.full((4,), 2e38)
    tensor[dist.get_rank()] = 0.0
    return hdet.average_([tensor]), tensor


def test_values_whose_sum_overflows_are_finite_all_the_same():
    for masked, _ in run_ranks(_huge, 2):
        assert masked == ()


def test_two_broken_replicas_of_four():
    for masked, tensors in run_ranks(_broken, 4, math.nan, [0, 3]):
        assert masked == (0, 3)
        assert all(bool((t == 1.5).all()) for t in tensors)


def _fails(kind):
    rank = dist.get_rank()
    tensors = [torch.full((4,), math.nan if kind == "all broken" else float(rank))]
    if kind == "other shape" and rank == 1:
        tensors = [torch.zeros(5)]
    if kind == "other format" and rank == 1:
        tensors = [torch.zeros(2, 2).t().contiguous().as_strided((2, 2), (1, 2))]
    if kind == "other format" and rank != 1:
        tensors = [torch.zeros(2, 2)]
    if kind == "gaps":
        tensors = [torch.zeros(8)[::2]]
    bucket = 10 if kind == "small bucket" else KIB
    before = tensors[0].clone()
    try:
        hdet.average_(tensors, bucket_bytes=bucket)
    except (ValueError, RuntimeError) as error:
        assert torch.equal(before, tensors[0]) or kind == "all broken"
        return f"{type(error).__name__}: {error}"
    return "no error"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("other shape", "ValueError: [rank {r} of 3] `average_` needs the same shapes"),
        ("other format", "replicas [1] differ from replica 0"),
        ("all broken", "RuntimeError: [rank {r} of 3] All 3 replicas hold NaN"),
        ("gaps", "overlap or leave gaps"),
        ("small bucket", "must be at least 1024"),
    ],
)
def test_what_cannot_be_averaged_is_an_error_on_every_rank(kind, message):
    for r, said in enumerate(run_ranks(_fails, 3, kind)):
        assert message.format(r=r) in said


def _subgroups():
    rank = dist.get_rank()
    groups: list[Any] = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    tensor = torch.full((3,), float(rank))
    hdet.average_([tensor], groups[rank // 2])
    return tensor


def test_a_process_group_limits_who_takes_part():
    values = [t.tolist() for t in run_ranks(_subgroups, 4)]
    assert values == [[0.5] * 3] * 2 + [[2.5] * 3] * 2


def test_one_process_is_left_alone():
    tensor = torch.tensor([1.0, math.nan])
    assert hdet.average_([tensor]) == ()
    assert math.isnan(tensor[1])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_nccl_averages_on_the_current_stream():
    for tensor in run_ranks(_on_cuda, 2):
        assert tensor.tolist() == [0.5] * 4


def _on_cuda():
    rank = dist.get_rank()
    torch.cuda.set_device(rank)
    group: Any = dist.new_group(backend="nccl")
    tensor = torch.full((4,), float(rank), device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        hdet.average_([tensor], group)
        torch.cuda.current_stream().synchronize()
    return tensor.cpu()


def _half_way():
    """Average while the second collective fails, half of its sum done."""
    rank = dist.get_rank()
    tensors = [torch.full((n,), float(rank)) for n in (200, 256, 5)]
    reduce, calls = dist.all_reduce, []

    def failing(tensor, *args, **kwargs):
        work = reduce(tensor, *args, **kwargs)
        calls.append(tensor)
        return Broken(work, tensor) if len(calls) == 3 else work

    # The first call is the gather of what the replicas check.
    averaging.dist.all_reduce = failing
    try:
        hdet.average_(tensors, bucket_bytes=KIB)
    except RuntimeError as error:
        return [t.tolist() for t in tensors], str(error)
    finally:
        averaging.dist.all_reduce = reduce


class Broken:
    def __init__(self, work, tensor):
        self.work, self.tensor = work, tensor

    def wait(self):
        self.work.wait()
        self.tensor[::2] = -7.0
        raise RuntimeError("connection closed")


def test_a_collective_that_fails_leaves_no_half_summed_weights():
    for rank, (tensors, said) in enumerate(run_ranks(_half_way, 2)):
        assert said == "connection closed"
        assert tensors == [[0.5] * 200, [rank] * 256, [rank] * 5]


def _outside():
    rank = dist.get_rank()
    group: Any = dist.new_group([0, 1])
    tensor = torch.full((2,), float(rank))
    masked = hdet.average_([tensor], group)
    try:
        optimizer = torch.optim.SGD(small_model().parameters(), 0.1)
        hdet.Explorer(optimizer, process_group=group)
        said = ""
    except ValueError as error:
        said = str(error)
    return masked, tensor.tolist(), said


def test_a_rank_outside_the_group_is_left_alone_and_makes_no_scheduler():
    ranks = run_ranks(_outside, 3)
    assert ranks[:2] == [((), [0.5, 0.5], "")] * 2
    assert ranks[2][:2] == ((), [2.0, 2.0])
    assert "[rank 2 of 3] `Explorer(process_group=...)` was given a group" in ranks[2][2]
