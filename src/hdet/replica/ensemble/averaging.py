"""The converge step: replace tensors by their mean over the replicas, in place.

Tensors travel in buckets (`buckets`). Two buffers take turns: one is on the wire while the
other is filled or emptied. They are the extra memory there is, whatever the model's size; to
measure the divergence takes another copy of what is packed in them. Every element is written
back through the tensor's own memory: `data_ptr`, strides and memory format stay, which CUDA
graphs and compiled code rely on. Where a collective raises an error, each element is either
this replica's own or the mean: what was being reduced is put back from the buffer.

Before the first bucket leaves, the replicas tell each other whether they hold the same layout
and only finite values, and what of the rest differs (`outsiders`). One that does not is left
out of the mean as a whole and healed by it.

Source: HDET (arXiv 2604.24708), equation (3): theta_r <- mean over the replicas of theta.
"""

from collections.abc import Collection, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ...errors import require, where
from .buckets import planned
from .contents import layout_of
from .groups import Replicas, is_member
from .meshes import find_replicas, reshard
from .outsiders import Outsiders, View
from .transfers import new_transfer


@torch.no_grad()
def average_(
    tensors: Iterable[Tensor],
    process_group: dist.ProcessGroup | DeviceMesh | None = None,
    *,
    model: nn.Module | None = None,
    bucket_bytes: int | None = None,
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
        bucket_bytes: size of a bucket in bytes, at least 1024; default 25 MiB on a CPU, as in
            DDP, and 200 MiB on an accelerator.

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
        bucket_bytes is None or bucket_bytes >= 1024,
        "average_",
        "bucket_bytes",
        bucket_bytes,
        "must be at least 1024",
        "leave it out for the default",
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
        bucket_bytes: size of a bucket; None for the device's default.
        device: where the collectives run; default where the tensors are.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor],
        replicas: Replicas,
        bucket_bytes: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        floats, self._plan = planned(tensors, bucket_bytes)
        own = floats[0].device if floats else torch.device("cpu")
        self.device = device or own
        self._replicas = replicas
        self._plan.take_memory()
        self._transfers = [new_transfer(b, floats, replicas) for b in self._plan.buckets]

    @torch.no_grad()
    def health(self, beside: View | None = None) -> Tensor:
        """Return [non-finite, layout, digest]: what the replicas check of each other.

        Args:
            beside: what else may have to be averaged; the digest is its own.

        Returns:
            The row, float64 on `device`.
        """
        # The first two buckets come last: their buffers stay filled, to be sent.
        count = len(self._transfers)
        backwards = enumerate(self._transfers[::-1], 1)
        norms = [norm for k, t in backwards for norm in t.norms(fill=count - k < 2)]
        finite = beside is None or not beside.turned
        # NaN and infinity come through a norm. So does the overflow of finite numbers; then
        # every value is looked at.
        if not bool(_squares(norms, self.device).isfinite()):
            finite &= all(transfer.finite() for transfer in self._transfers)
        others = [] if beside is None else beside.tensors
        layout = hash((self._plan.layout, *map(layout_of, others)))
        # 32 bits of a hash pass unharmed through a float64, and through sums over shards.
        row = [float(not finite), float(layout & 0xFFFFFFFF), beside.total if beside else 0.0]
        return torch.tensor(row, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def run(self, masked: Sequence[int] = (), measure: bool = False) -> Tensor:
        """Replace the tensors by their mean over the replicas not in `masked`. Collective.

        Args:
            masked: replicas that receive the mean and give nothing.
            measure: whether to measure the divergence, one more pass over the tensors.

        Returns:
            The squares of ||theta_r - mean|| for this process's tensors, and of ||mean|| for
            this replica's share of them, float64 on `device`: `divergences` takes those of
            all replicas. Zeros if not measured.
        """
        silent = self._replicas.rank in masked
        live = self._replicas.size - len(masked)
        gaps: list[Tensor] = []
        means: list[Tensor] = []
        sent = 0
        try:
            for k, transfer in enumerate(self._transfers):
                for following in self._transfers[sent : k + 2]:
                    sent += 1
                    following.send(silent, measure)
                own, common = transfer.receive(live, measure)
                gaps += own
                means += common
        except BaseException:
            for transfer in self._transfers[:sent]:
                transfer.put_back()
            raise
        finally:
            self._plan.give_back()
        return torch.stack([_squares(norms, self.device) for norms in (gaps, means)])


def _squares(norms: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the sum of their squares, in float64 on a device; 0 of none."""
    if not norms:
        return torch.zeros((), dtype=torch.float64, device=device)
    kinds: dict[tuple, list[Tensor]] = {}
    for norm in norms:
        kinds.setdefault((norm.device, norm.dtype), []).append(norm)
    sums = [torch.stack(same).double().square().sum().to(device) for same in kinds.values()]
    return torch.stack(sums).sum()


def divergences(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return ||theta_r - mean|| / ||mean|| from what `Averaging.run` gave on every replica."""
    mean = sum(row[1] for row in rows) or 1.0
    return [(row[0] / mean) ** 0.5 for row in rows]
