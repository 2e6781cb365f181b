"""What averaging and the schedulers' steps cost on a CUDA device, the network taken out.

    python benchmarks/averaging/gpu.py [--source src] [--out gpu.json]

The process group is torch's `fake` one, of eight ranks: a collective is called and moves
nothing. Averaging is compared with one copy of as many bytes on the device. The steps of
`Explorer` and of `OneCycleAutoLR` between two syncs are compared with those of the schedulers
that they stand for, on the host, beside training that keeps the device busy. `--source` is the
folder that holds the package, to measure another version by the same means.
"""

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.testing._internal.distributed.fake_pg import FakeStore

RANKS = 8
# Tensors, and elements of each.
LAYOUTS = {
    "1.3B in 200 tensors": (200, 6_500_000),
    "10,000 tensors of 10,000": (10_000, 10_000),
}
MIB = 2**20


def seconds(call: Callable[[], object], rounds: int, warm: int = 3) -> float:
    """Return the median time of a call until the device has done it."""
    times = []
    for turn in range(warm + rounds):
        _wait()
        began = time.perf_counter()
        call()
        _wait()
        if turn >= warm:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_averaging(device: torch.device, scale: float) -> dict:
    """Return milliseconds and ratios to one copy, with and without the divergence."""
    from hdet.replica.ensemble.averaging import Averaging, average_
    from hdet.replica.ensemble.groups import Replicas

    results = {}
    for name, (count, numel) in LAYOUTS.items():
        shape = (max(1, int(numel * scale)),)
        tensors = [nn.Parameter(torch.ones(shape, device=device)) for _ in range(count)]
        flat = torch.ones(count * shape[0], device=device)
        other = torch.empty_like(flat)

        @torch.no_grad()
        def measured(tensors=tensors, bucket: int | None = None) -> None:
            more = () if bucket is None else (bucket,)
            averaging = Averaging(tensors, Replicas(), *more)
            averaging.health()
            averaging.run((), True).tolist()

        copy = seconds(lambda a=flat, b=other: b.copy_(a), 25)
        rows = {"average_": seconds(lambda t=tensors: average_(t), 15)}
        rows["with divergence"] = seconds(measured, 15)
        for bucket in (50, 100, 200, 400):
            size = bucket * MIB
            rows[f"average_, {bucket} MiB"] = seconds(
                lambda t=tensors, s=size: average_(t, bucket_bytes=s), 7
            )
            rows[f"with divergence, {bucket} MiB"] = seconds(
                lambda s=size: measured(bucket=s), 7
            )
        results[name] = {
            "copy, ms": copy * 1e3,
            **{f"{key}, ms": value * 1e3 for key, value in rows.items()},
            **{f"{key} / copy": value / copy for key, value in rows.items()},
        }
        del tensors, flat, other
    return results


def measure_primitives(device: torch.device, scale: float) -> dict:
    """Return what single passes over 1.3B elements cost in copies, to see where time goes."""
    numel, count = int(6_500_000 * scale), 200
    tensors = [torch.ones(numel, device=device) for _ in range(count)]
    flat = torch.ones(count * numel, device=device)
    other = torch.ones_like(flat)
    slots = list(other.split(numel))
    mode = "donot_use_mm_for_euclid_dist"
    calls = {
        "foreach_copy_": lambda: torch._foreach_copy_(slots, tensors),
        "foreach_copy_ by 4": lambda: [
            torch._foreach_copy_(slots[i : i + 4], tensors[i : i + 4])
            for i in range(0, count, 4)
        ],
        "cat by 4": lambda: [
            torch.cat(tensors[i : i + 4], out=other[i * numel : (i + 4) * numel])
            for i in range(0, count, 4)
        ],
        "foreach_div_": lambda: torch._foreach_div_(tensors, 1),
        "foreach_norm": lambda: torch._foreach_norm(tensors),
        "foreach_norm, inf": lambda: torch._foreach_norm(tensors, math.inf),
        "vector_norm": lambda: torch.linalg.vector_norm(flat),
        "sum": lambda: flat.sum(),
        "copy_ each": lambda: [a.copy_(b) for a, b in zip(slots, tensors, strict=True)],
        "div_ each": lambda: [t.div_(1.5) for t in tensors],
        "sum each": lambda: [t.sum() for t in tensors],
        "foreach_sub_": lambda: torch._foreach_sub_(slots, tensors),
        "200 collectives": lambda: [dist.all_reduce(t) for t in tensors],
    }
    for width in (250, 500, 1000, 2000, 4000, 10_000, 32_500):
        rows = [
            (a.view(-1, 1, width), b.view(-1, 1, width))
            for a, b in zip(slots, tensors, strict=True)
        ]
        calls[f"cdist, rows of {width}"] = lambda rows=rows: [
            torch.cdist(a, b, compute_mode=mode) for a, b in rows
        ]
    copy = seconds(lambda: other.copy_(flat), 15)
    return {key: seconds(call, 7) / copy for key, call in calls.items()}


def measure_host(device: torch.device) -> dict:
    """Return milliseconds of calls over 10,000 small tensors, which the host is busy with."""
    with torch.no_grad():
        tensors = [nn.Parameter(torch.ones(100, 100, device=device)) for _ in range(10_000)]
        buffer = torch.ones(10_000 * 10_000, device=device)
        slots = list(buffer.view(10_000, 100, 100).unbind())
        flats = [t.detach().view(-1) for t in tensors]
        sizes = [10_000] * 10_000
        calls = {
            "ids": lambda: list(map(id, tensors)),
            "data_ptr": lambda: list(map(torch.Tensor.data_ptr, tensors)),
            "numel": lambda: list(map(torch.Tensor.numel, tensors)),
            "stride": lambda: list(map(torch.Tensor.stride, tensors)),
            "foreach_copy_, in": lambda: torch._foreach_copy_(slots, tensors),
            "foreach_copy_, out": lambda: torch._foreach_copy_(tensors, slots),
            "cat of views": lambda: torch.cat(flats, out=buffer),
            "split_with_sizes_copy": lambda: torch.split_with_sizes_copy(
                buffer, sizes, out=flats
            ),
            "10,000 empty calls": lambda: [slots[0].numel() for _ in range(10_000)],
        }
        return {key: seconds(call, 7) * 1e3 for key, call in calls.items()}


def check_averaging(device: torch.device) -> dict:
    """Return what is wrong where the other replicas hold the same plus 0.5, in every dtype."""
    from hdet.replica.ensemble import averaging
    from hdet.replica.ensemble.groups import Replicas

    reduce = dist.all_reduce

    class Done:
        def wait(self) -> None:
            pass

    def of_all(tensor: torch.Tensor, op=dist.ReduceOp.SUM, *_: object, **__: object) -> Done:
        tensor.mul_(RANKS).add_((RANKS - 1) * 0.5)
        if op == dist.ReduceOp.AVG:
            tensor.div_(RANKS)
        return Done()

    found = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        sizes = [3, 4096, 70_001, 9_000_000, 15_485_863, 30_000_000]
        tensors = [torch.ones(n, dtype=dtype, device=device) for n in sizes]
        dist.all_reduce = of_all
        try:
            one = averaging.Averaging(tensors, Replicas())
            broken = float(one.health()[0])
            squares = one.run((), True).tolist()
        finally:
            dist.all_reduce = reduce
        mean = 1 + (RANKS - 1) / RANKS * 0.5
        gap = (mean - 1) ** 2 * sum(sizes)
        found[str(dtype)] = {
            "non-finite": broken,
            "largest error": max(float((t.double() - mean).abs().max()) for t in tensors),
            "squared gap / expected": squares[0] / gap,
            "squared mean / expected": squares[1] / (mean**2 * sum(sizes)),
        }
    return found


def measure_steps(device: torch.device) -> dict:
    """Return microseconds of a scheduler's step between syncs, beside a busy device."""
    import hdet
    from hdet.replica.ensemble.ensemble import Ensemble

    # Over the fake group nobody answers.
    Ensemble.introduce = lambda *_: None
    Ensemble.appear = lambda *_: None
    results = {}
    for groups in (1, 4, 12, 78):
        for kind in ("number", "tensor"):
            row = {}
            for name in ("cosine", "Explorer", "one cycle", "OneCycleAutoLR"):
                model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(39))).to(device)
                held = [[] for _ in range(groups)]
                for k, parameter in enumerate(model.parameters()):
                    held[k % groups].append(parameter)
                rate = 1e-3 if kind == "number" else torch.tensor(1e-3, device=device)
                optimizer = torch.optim.AdamW(
                    [{"params": p} for p in held], lr=rate, fused=True,
                    capturable=kind == "tensor" and device.type == "cuda",
                )  # fmt: skip
                if kind == "tensor":
                    for group in optimizer.param_groups:
                        group["lr"] = rate.clone()
                scheduler = {
                    "cosine": lambda o: CosineAnnealingLR(o, 10_000),
                    "Explorer": lambda o: hdet.Explorer(
                        o, CosineAnnealingLR(o, 10_000), sync_every=10**9
                    ),
                    "one cycle": lambda o: OneCycleLR(o, 1e-3, 10_000),
                    "OneCycleAutoLR": lambda o: hdet.OneCycleAutoLR(
                        o, 1e-3, 10_000, ensemble_lr_spread_ratio=1 / 9,
                        model_sync_interval=10_000,
                    ),
                }[name](optimizer)  # fmt: skip
                row[name] = _steps(model, optimizer, scheduler, device)
            row["Explorer / cosine"] = row["Explorer"] / row["cosine"]
            row["OneCycleAutoLR / one cycle"] = row["OneCycleAutoLR"] / row["one cycle"]
            results[f"{groups} groups, lr a {kind}"] = row
    return results


def _steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheduler, device: torch.device
) -> float:
    """Return the median microseconds of the scheduler's step on the host."""
    x = torch.randn(256, 64, device=device)
    times = []
    for step in range(60):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        began = time.perf_counter()
        if type(scheduler).__module__.startswith("hdet"):
            scheduler.step(loss)
        else:
            scheduler.step()
        if step >= 10:
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--source", default="src", help="folder that holds the package")
    parser.add_argument("--out", default=None, help="where to write the numbers as JSON")
    parser.add_argument("--scale", type=float, default=1.0, help="of the tensors' sizes")
    parser.add_argument("--primitives", action="store_true", help="single passes too")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(options.source).resolve()))
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    from hdet.replica.ensemble.groups import Replicas

    # The fake group stands for NCCL's.
    dist.get_backend_config = lambda *_: "cpu:gloo,cuda:nccl"
    Replicas.gather = lambda self, row: [row.tolist()] * self.size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    parts = {
        "averaging": lambda: measure_averaging(device, options.scale),
        "check": lambda: check_averaging(device),
        "steps, us": lambda: measure_steps(device),
    }
    if options.primitives:
        parts["passes / copy"] = lambda: measure_primitives(device, options.scale)
        parts["host, ms"] = lambda: measure_host(device)
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    content = {"source": options.source, "device": name, "torch": torch.__version__}
    for part, measure in parts.items():
        content[part] = measure()
        content["seconds"] = time.perf_counter() - began
        print(json.dumps({part: content[part]}, indent=1), flush=True)
        if options.out:
            Path(options.out).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
