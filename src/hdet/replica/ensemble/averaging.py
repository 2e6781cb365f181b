"""The converge step: replace tensors by their mean over the replicas, in place.

Tensors are packed into flat buckets, each of one (device, dtype). Two buffers alternate:
one is on the wire while the other is packed or unpacked, and they are all the extra memory
there is, whatever the model's size. Every element is written back through the tensor's own
memory: `data_ptr`, strides and memory format stay, which CUDA graphs and compiled code rely
on. A tensor is written only after its bucket has arrived, so a failing collective leaves no
half-summed weights.

Before the first bucket leaves, the replicas tell each other whether they hold the same layout
and only finite values, and what of the rest differs (`outsiders`). One that does not is left
out of the mean as a whole and healed by it.

Source: HDET (arXiv 2604.24708), equation (3): theta_r <- mean over the replicas of theta.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ...errors import require, where
from .contents import layout_of, local_floats
from .groups import Replicas, is_member
from .meshes import find_replicas, reshard
from .outsiders import Outsiders, View

# DDP's own bucket size: large enough to hide the latency of a collective.
BUCKET_BYTES = 25 * 2**20
_HALF = (torch.float16, torch.bfloat16)
# Elements that are worked on together on a CPU: few enough to stay in a core's cache from one
# pass over them to the next. Elsewhere each call has a price, and a bucket is one run.
_RUN = 2**18


@torch.no_grad()
def average_(
    tensors: Iterable[Tensor],
    process_group: dist.ProcessGroup | DeviceMesh | None = None,
    *,
    model: nn.Module | None = None,
    bucket_bytes: int = BUCKET_BYTES,
) -> tuple[int, ...]:
    """Average `tensors` over the replicas, in place, equation (3).

    Collective: every rank calls it with tensors of the same shapes, strides and dtypes in
    the same order. Half precision is summed in float32; integer tensors are left alone.

    Before: `average_parameters(model.parameters(), group)`
    After:  `hdet.average_(model.parameters(), model=model)`

    Args:
        tensors: parameters or any other tensors. Sharded ones (DTensor) are averaged shard
            by shard over their mesh's replicate axis.
        process_group: the replicas; default the mesh's replicate axis, else all ranks. Or a
            mesh whose first axis are the replicas, the others the processes of one replica.
        model: its floating-point buffers, such as batch-norm statistics, are averaged too
            where they differ; constants, such as a mask of minus infinity, are left alone.
            To be given under FSDP2, which otherwise may go on with gathered older weights.
        bucket_bytes: size of a bucket in bytes, at least 1024; default 25 MiB, as in DDP.

    Returns:
        The replicas that were left out for being non-finite, ascending; the same on every
        rank. With one replica, no process group, or one that this rank is not in, nothing is
        sent and nothing changes.

    Raises:
        ValueError: on every rank and before anything changes, if an argument is out of
            range, the tensors differ between ranks, or they are sharded without replicas.
        RuntimeError: on every rank, if all replicas hold non-finite values.

    References:
        Cheng et al., arXiv 2604.24708, converge step.
    """
    require(
        bucket_bytes >= 1024,
        "average_",
        "bucket_bytes",
        bucket_bytes,
        "must be at least 1024",
        "leave it out for 25 MiB",
    )
    if not is_member(process_group):
        return ()
    tensors = list(tensors)
    buffers = [] if model is None else list(model.named_buffers())
    replicas = find_replicas([*tensors, *(b for _, b in buffers)], "average_", process_group)
    if not replicas.connected or replicas.size == 1:
        return ()
    averaging = Averaging(tensors, replicas, bucket_bytes)
    view = Outsiders(lambda: ((name, b, True) for name, b in buffers)).look(averaging.device)
    rows = replicas.gather(replicas.sum_inner_(averaging.health(view)))
    check_layout(rows)
    differing, broken = view.settle([row[2] for row in rows], replicas, averaging.device)
    masked = check_health(rows, broken)
    averaging.run(masked)
    Averaging(differing, replicas, bucket_bytes).run(masked)
    reshard(model)
    global _calls
    _calls += 1
    return masked


_calls = 0


def calls() -> int:
    """Return how many times `average_` has averaged anything in this process."""
    return _calls


def check_layout(rows: Sequence[Sequence[float]]) -> None:
    """Raise a `ValueError` if the layouts in everyone's `Averaging.health` differ."""
    odd = [r for r, row in enumerate(rows) if row[1] != rows[0][1]]
    if odd:
        raise ValueError(
            f"{where()}`average_` needs the same shapes, strides and dtypes in the same "
            f"order on every replica, and replicas {odd} differ from replica 0: build the "
            f"same model with the same memory format everywhere."
        )


def check_health(
    rows: Sequence[Sequence[float]], broken: Collection[int] = ()
) -> tuple[int, ...]:
    """Return which replicas are non-finite, from everyone's `Averaging.health`.

    Args:
        rows: what `health` gave on every replica.
        broken: the replicas that are known to be by something else.

    Raises:
        RuntimeError: if no replica is finite.
    """
    masked = tuple(r for r, row in enumerate(rows) if row[0] > 0 or r in broken)
    if len(masked) == len(rows):
        raise RuntimeError(
            f"{where()}All {len(rows)} replicas hold NaN or infinite values, so there is "
            f"nothing to heal from. Load the last checkpoint and lower the learning rate, "
            f"or clip gradients. Under DDP one replica's NaN reaches all through the shared "
            f"gradient; `ddp.register_comm_hook(None, hdet.finite_mean_hook)` prevents that."
        )
    return masked


class Averaging:
    """One pass of equation (3) over a list of tensors: `health`, then `run`.

    Args:
        tensors: what is to be averaged; see `average_`.
        replicas: who takes part.
        bucket_bytes: size of a bucket.
        device: where the collectives run; default where the tensors are.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor],
        replicas: Replicas,
        bucket_bytes: int = BUCKET_BYTES,
        device: torch.device | None = None,
    ) -> None:
        self._tensors = local_floats(tensors)
        own = self._tensors[0].device if self._tensors else torch.device("cpu")
        self.device = device or own
        self._replicas = replicas
        self._buckets = [_Bucket(p) for p in _plan(self._tensors, bucket_bytes)]
        self._storages = [_take(b.device, b.nbytes) for b in self._buckets[:2]]
        # Packed now, since checking one packed buffer is quicker than many small tensors.
        for index in range(len(self._storages)):
            self._pack(index)

    def _pack(self, index: int) -> None:
        """Pack bucket `index` into the buffer that bucket `index - 2` has left."""
        bucket, storage = self._buckets[index], self._storages[index % 2]
        if storage.device != bucket.device or storage.numel() < bucket.nbytes:
            storage = self._storages[index % 2] = _take(bucket.device, bucket.nbytes)
        bucket.pack(storage)

    def health(self, beside: View | None = None) -> Tensor:
        """Return [non-finite, layout, digest]: what the replicas check of each other.

        Args:
            beside: what else may have to be averaged; the digest is its own.

        Returns:
            The row, float64 on `device`.
        """
        finite = beside is None or not beside.turned
        if self._buckets:
            # A sum is the quickest pass there is, and NaN and infinity come through it. So
            # does the overflow of finite numbers; then every value is looked at.
            sums = torch.stack([b.sum().to(self.device).double() for b in self._buckets])
            if not bool(sums.isfinite().all()):
                finite &= all(bool(bucket.finite()) for bucket in self._buckets)
        others = [] if beside is None else beside.tensors
        layout = hash((len(others), *map(layout_of, [*self._tensors, *others])))
        # 32 bits of a hash pass unharmed through a float64, and through sums over shards.
        row = [float(not finite), float(layout & 0xFFFFFFFF), beside.total if beside else 0.0]
        return torch.tensor(row, dtype=torch.float64, device=self.device)

    def run(self, masked: Sequence[int] = (), measure: bool = False) -> Tensor:
        """Replace the tensors by their mean over the replicas not in `masked`. Collective.

        Args:
            masked: replicas that receive the mean and give nothing.
            measure: whether to measure the divergence, one more pass over the tensors.

        Returns:
            The squares of ||theta_r - mean|| and ||mean|| for this process's tensors,
            float64 on `device`; zeros if not measured.
        """
        silent = self._replicas.rank in masked
        live = self._replicas.size - len(masked)
        squares = torch.zeros(2, dtype=torch.float64, device=self.device)
        for index, bucket in enumerate(self._buckets):
            if index == 0:
                bucket.send(self._replicas.group, silent)
            if index + 1 < len(self._buckets):
                if index >= 1:
                    self._pack(index + 1)
                self._buckets[index + 1].send(self._replicas.group, silent)
            squares += bucket.unpack(live, measure).to(self.device)
        _give_back(self._storages)
        return squares


# Fresh memory from the system costs more than the averaging itself on a CPU, page by page.
# Accelerators have a caching allocator of their own.
_resting: list[Tensor] = []


def _take(device: torch.device, nbytes: int) -> Tensor:
    """Return a byte buffer, one that rests from an earlier call if it is large enough."""
    if device.type == "cpu":
        while _resting:
            storage = _resting.pop()
            if storage.numel() >= nbytes:
                return storage
    return torch.empty(nbytes, dtype=torch.uint8, device=device)


def _give_back(storages: list[Tensor]) -> None:
    if not _resting:
        _resting.extend(s for s in storages if s.device.type == "cpu")


def _plan(tensors: Sequence[Tensor], bucket_bytes: int) -> Iterator[list[Tensor]]:
    """Yield the flat pieces of each bucket; a tensor over the cap is cut into several."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for (device, dtype), group in kinds.items():
        cap = bucket_bytes // _wire_dtype(dtype).itemsize
        longest = min(cap, _run_length(device))
        pieces: list[Tensor] = []
        room = cap
        for tensor in group:
            flat = _flat(tensor)
            whole = flat.numel() <= min(room, longest)
            for piece in [flat] if whole else flat.split(longest):
                if piece.numel() > room:
                    yield pieces
                    pieces, room = [], cap
                pieces.append(piece)
                room -= piece.numel()
        if pieces:
            yield pieces


def _run_length(device: torch.device) -> int:
    return _RUN if device.type == "cpu" else 2**62


def _wire_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _HALF else dtype


def _flat(tensor: Tensor) -> Tensor:
    """Return the tensor's memory as one dimension, a view, in order of address.

    Raises:
        ValueError: if its elements overlap or leave gaps.
    """
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    dense = tensor.permute(order)
    if not dense.is_contiguous():
        raise ValueError(
            f"{where()}`average_` got a tensor of shape {tuple(tensor.shape)} and strides "
            f"{tensor.stride()}, whose elements overlap or leave gaps in memory: give the "
            f"tensor that it is a view of."
        )
    return dense.view(-1)


class _Bucket:
    """Flat pieces of one device and dtype, and the buffer in which they travel."""

    def __init__(self, pieces: list[Tensor]) -> None:
        self._pieces = pieces
        self._wire = _wire_dtype(pieces[0].dtype)
        self.device = pieces[0].device
        self._runs = list(_runs(pieces))
        self._numel = sum(piece.numel() for piece in pieces)
        self.nbytes = self._numel * self._wire.itemsize
        self._buffer: Tensor | None = None
        self._sums: list[Tensor] = []

    def pack(self, storage: Tensor) -> None:
        self._buffer = storage[: self.nbytes].view(self._wire)
        self._sums = []
        for start, stop, pieces in self._runs:
            part = self._buffer[start:stop]
            torch.cat(pieces, out=part)
            self._sums.append(part.sum())

    def sum(self) -> Tensor:
        """Return the sum of what the bucket holds, a scalar."""
        if not self._sums:
            self._sums = [piece.sum(dtype=self._wire) for piece in self._pieces]
        return torch.stack(self._sums).sum()

    def finite(self) -> Tensor:
        """Return whether each value is finite, a boolean scalar."""
        return torch.stack([piece.isfinite().all() for piece in self._pieces]).all()

    def send(self, group: dist.ProcessGroup | None, silent: bool) -> None:
        assert self._buffer is not None
        if silent:
            self._buffer.zero_()
        self._work = dist.all_reduce(self._buffer, group=group, async_op=True)

    def unpack(self, live: int, measure: bool) -> Tensor:
        """Write the mean back, once it is here; return the squared norms of `run`."""
        assert self._buffer is not None
        assert self._work is not None
        self._work.wait()
        buffer, self._buffer = self._buffer, None
        gaps: list[Tensor] = []
        means: list[Tensor] = []
        for start, stop, pieces in self._runs:
            mean = buffer[start:stop].div_(live)
            slots = list(mean.split([piece.numel() for piece in pieces]))
            if measure:
                torch._foreach_sub_(pieces, slots)  # pyright: ignore[reportPrivateImportUsage]
                gaps += [torch.linalg.vector_norm(p, dtype=self._wire) for p in pieces]
                means.append(torch.linalg.vector_norm(mean))
            torch._foreach_copy_(pieces, slots)  # pyright: ignore[reportPrivateImportUsage]
        squares = torch.zeros(2, dtype=torch.float64, device=self.device)
        if measure:
            squares[0] = torch.stack(gaps).double().square().sum()
            squares[1] = torch.stack(means).double().square().sum()
        return squares


def _runs(pieces: list[Tensor]) -> Iterator[tuple[int, int, list[Tensor]]]:
    """Yield (start, stop, pieces) of neighbours in a bucket, to be worked on together."""
    longest = _run_length(pieces[0].device)
    start = stop = 0
    run: list[Tensor] = []
    for piece in pieces:
        if run and stop - start + piece.numel() > longest:
            yield start, stop, run
            start, run = stop, []
        run.append(piece)
        stop += piece.numel()
    yield start, stop, run
