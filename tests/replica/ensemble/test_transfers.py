"""What averaging does with its tensors, in one process: collectives are stood in for."""

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from hdet.replica.ensemble import transfers
from hdet.replica.ensemble.averaging import Averaging, divergences
from hdet.replica.ensemble.groups import Replicas

REPLICAS = 4
KIB = 1024


class Done:
    def wait(self):
        pass


@pytest.fixture(params=["gloo", "nccl"])
def backend(request, monkeypatch):
    """All replicas have what this one has, plus 0.5 but for this one."""

    def all_reduce(tensor, op=dist.ReduceOp.SUM, *_, **__):
        tensor.mul_(REPLICAS).add_((REPLICAS - 1) * 0.5)
        if op == dist.ReduceOp.AVG:
            tensor.div_(REPLICAS)
        return Done()

    monkeypatch.setattr(transfers.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(Replicas, "backend", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_mean_and_the_divergence_whoever_divides(backend, dtype):
    sizes = [3, 300, 700, 5]
    tensors = [torch.ones(n, dtype=dtype) for n in sizes]
    averaging = Averaging(tensors, Replicas(fallback_size=REPLICAS), KIB)
    assert averaging.health()[0] == 0
    gap, share = averaging.run(measure=True).tolist()
    mean = 1 + 0.375
    assert all(bool((t == mean).all()) for t in tensors)
    assert gap == pytest.approx(0.375**2 * sum(sizes), rel=1e-5)
    # The shares of the mean add up; each replica's is a quarter, but for remainders.
    assert share == pytest.approx(mean**2 * sum(sizes) / REPLICAS, rel=0.02)


def test_a_replica_that_is_left_out_does_not_count(backend, monkeypatch):
    def sum_of_three(tensor, op=dist.ReduceOp.SUM, *_, **__):
        assert not tensor.any()
        tensor.fill_(6.0 / (REPLICAS if op == dist.ReduceOp.AVG else 1))
        return Done()

    monkeypatch.setattr(transfers.dist, "all_reduce", sum_of_three)
    tensors = [torch.ones(3), torch.ones(300)]
    Averaging(tensors, Replicas(fallback_size=REPLICAS), KIB).run([0])
    assert all(bool((t == 2).all()) for t in tensors)


def test_divergences_are_relative_to_the_mean_of_which_each_has_a_share():
    assert divergences([[4.0, 9.0], [0.0, 7.0]]) == [0.5, 0.0]
    assert divergences([[4.0, 0.0]]) == [2.0]


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", ["nccl"], indirect=True)
def test_many_small_tensors_take_few_calls_once_they_are_planned(backend):
    tensors = [torch.ones(2, 5) for _ in range(1000)]
    replicas = Replicas(fallback_size=REPLICAS)
    planning, calls = Calls(), Calls()
    for each in (planning, calls):
        with each:
            averaging = Averaging(tensors, replicas)
            averaging.health()
            averaging.run()
    assert calls.names["_foreach_copy_"] == 2
    assert calls.names.total() < 30


@pytest.mark.parametrize("backend", ["nccl"], indirect=True)
def test_where_nccl_divides_a_large_tensor_is_not_copied(backend):
    tensor = torch.ones(2**20)
    with Calls() as calls:
        averaging = Averaging([tensor], Replicas(fallback_size=REPLICAS))
        averaging.run()
    assert not {"cat", "_foreach_copy_", "_foreach_div_", "clone"} & set(calls.names)
    assert bool((tensor == 1.375).all())
