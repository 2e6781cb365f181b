"""`Explorer` on CUDA devices; skipped where there are none."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR

import hdet
from hdet.replica.explorer.probe import evaluate
from tests.rank_runner import run_ranks

pytestmark = pytest.mark.gpu

one_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


def network():
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 1)
    )
    return model.cuda()


def batch():
    x = torch.randn(32, 6, device="cuda")
    return x, x.sin().sum(1, keepdim=True)


def loss_of(model, pair):
    x, y = pair
    return (model(x) - y).square().mean()


@one_device
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_probe_leaves_both_random_states_and_the_buffers_alone(mode, fails):
    model, data = network(), batch()

    def probe():
        torch.rand(3)
        torch.rand(3, device="cuda")
        if fails:
            raise RuntimeError("in the probe")
        return loss_of(model, data)

    cpu, cuda = torch.get_rng_state(), torch.cuda.get_rng_state()
    buffers = [b.clone() for b in model.buffers()]
    if fails:
        with pytest.raises(RuntimeError, match="in the probe"):
            evaluate(probe, model, mode, 0, 0)
    else:
        loss, _ = evaluate(probe, model, mode, 0, 0)
        assert isinstance(loss, torch.Tensor)
        assert loss.is_cuda
    assert torch.equal(torch.get_rng_state(), cpu)
    assert torch.equal(torch.cuda.get_rng_state(), cuda)
    assert all(map(torch.equal, model.buffers(), buffers))
    assert model.training


@one_device
def test_dropout_on_the_device_draws_the_same_mask_at_the_same_sync():
    model, data = network(), batch()

    def score(sync):
        return float(evaluate(lambda: loss_of(model, data), model, "train", 0, sync)[0])

    first = score(1)
    torch.rand(5, device="cuda")
    assert score(1) == first
    assert len({score(k) for k in range(4)}) == 4


@one_device
def test_the_helper_brings_nested_batches_to_the_device():
    model, seen = network(), []

    def loss(_, item):
        seen.append((item["x"].is_cuda, item["more"][0].is_cuda))
        return item["x"].mean()

    hdet.probe(model, [{"x": torch.ones(2), "more": (torch.ones(1), "name")}], loss)()
    assert seen == [(True, True)]


def _on_cuda():
    rank = dist.get_rank()
    torch.cuda.set_device(rank)
    group: Any = dist.new_group(backend="nccl")
    with torch.random.fork_rng(devices=[rank]):
        torch.manual_seed(0)
        model = network()
        torch.manual_seed(rank)
        wrapped = DistributedDataParallel(model, process_group=group)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=torch.tensor(0.01, device="cuda"), capturable=True
        )
        explorer = hdet.Explorer(
            optimizer,
            CosineAnnealingLR(optimizer, 40),
            [hdet.lr(), hdet.weight_decay()],
            sync_every=4,
            probe=hdet.probe(model, [batch() for _ in range(3)], loss_of, group),
            model=model,
            process_group=group,
        )
        for _ in range(24):
            optimizer.zero_grad()
            loss = loss_of(wrapped, batch())
            loss.backward()
            optimizer.step()
            explorer.step(loss)
        explorer.converge()
    metrics = explorer.metrics()
    rates = [float(optimizer.param_groups[0]["lr"])]
    return [p.detach().cpu() for p in model.parameters()], metrics, rates


@two_devices
def test_replicas_on_two_devices_agree_and_play_different_rates():
    (mine, first, rate), (theirs, second, other) = run_ranks(_on_cuda, 2)
    assert all(map(torch.equal, mine, theirs))
    assert first["values"] == second["values"]
    assert first["probes"] == second["probes"]
    assert first["syncs"] == 7
    assert rate != other
