"""What averaging costs: `hdet.average_` against its limit and against torch's own.

    python -m benchmarks averaging [--rounds 31] [--ranks 4]

The limit is one `all_reduce` of the same bytes, already flat: no averaging of separate
tensors can do with less. The copying floor adds the copies to and from a flat
buffer, and nothing else. torch's peer is
`model_averaging.utils.average_parameters`, which flattens the whole model. 1,000 small
tensors and ten large ones, of 40 MB each way.
"""

import itertools
import weakref
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from torch.distributed.algorithms.model_averaging.utils import average_parameters
from torch.utils._python_dispatch import TorchDispatchMode

import hdet
from hdet.replica.ensemble import buckets

from ..core.ranks import on_ranks
from ..core.records import write_record
from ..core.timing import in_turns, ratios

LAYOUTS = {
    "1,000 tensors of 10,000": [(100, 100)] * 1000,
    "10 tensors of 1,000,000": [(1000, 1000)] * 10,
}


class PeakMemory(TorchDispatchMode):
    """The largest number of bytes that were alive at once in storages made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            t.untyped_storage()._cdata
            for t in itertools.chain(
                *(a if isinstance(a, (list, tuple)) else [a] for a in args)
            )
            if isinstance(t, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given | self._seen:
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def measure(rounds: int) -> None:
    """Measure on every rank; rank 0 writes the record."""
    results = {}
    for name, shapes in LAYOUTS.items():
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        others = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        flat = torch.randn(sum(p.numel() for p in parameters))
        views = [p.detach().view(-1) for p in parameters]
        buffer = torch.empty_like(flat)
        slots = list(buffer.split([view.numel() for view in views]))

        def floor(views=views, buffer=buffer, slots=slots) -> None:
            torch.cat(views, out=buffer)
            dist.all_reduce(buffer)
            buffer.div_(dist.get_world_size())
            torch._foreach_copy_(views, slots)

        seconds = in_turns(
            {
                "floor": floor,
                "limit": lambda flat=flat: dist.all_reduce(flat),
                "hdet": lambda p=parameters: hdet.average_(p),
                "torch": lambda p=others: average_parameters(iter(p), dist.group.WORLD),
            },
            rounds,
        )
        buckets._kept.clear()
        with PeakMemory() as memory:
            hdet.average_(parameters)
        bucket = min(buckets.BUCKET_BYTES, flat.nbytes)
        results[name] = {
            "ms": {k: sorted(v)[len(v) // 2] * 1000 for k, v in seconds.items()},
            "floor / limit": ratios(seconds, "floor", "limit"),
            "hdet / limit": ratios(seconds, "hdet", "limit"),
            "torch / limit": ratios(seconds, "torch", "limit"),
            "hdet / torch": ratios(seconds, "hdet", "torch"),
            "extra memory in buckets": memory.peak / bucket,
        }
    if dist.get_rank() == 0:
        content = {"rounds": rounds, "ranks": dist.get_world_size(), "results": results}
        write_record("averaging", "python -m benchmarks averaging", content)
        for name, row in results.items():
            print(name, row)


def command(
    rounds: Annotated[int, typer.Option(min=3, help="Times that each takes its turn.")] = 31,
    ranks: Annotated[int, typer.Option(min=2, help="Processes.")] = 4,
) -> None:
    """What averaging costs, against one all-reduce of the same bytes."""
    on_ranks(measure, ranks, rounds)
